"""MLflow's pages of all editors on atlas in a real browser.

``pytest -m slow tests/plugins/mlflow_tracking/test_pages.py --basetemp=DIR`` leaves a picture of
every page in ``DIR``.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_mlflow_ui import free_port

from editkit.benchmark.aggregate import Estimate, cell_document
from editkit.benchmark.store import requests_of, rows_of, runs_in
from editkit.results import Cell, Row, Run
from tests.browser import Browser, browsing

pytestmark = pytest.mark.slow

EDITORS = ("none", "ft", "ft+l", "attnedit", "kn", "ke", "ke-cf", "mend", "mend-cf", "rome")
LIMIT = 5
KEYS = {
    "S": "summary/score",
    "ES": "efficacy/score",
    "PS": "paraphrase/score",
    "NS": "neighborhood/score",
}
"""The columns that matter, in the paper's order."""
MATTER = [f"tags.`{head}`" for head in (*KEYS, "records", "s/edit")]
NOT_OURS = ("/mlflow/users/current", "AG Grid: since", "> attribute ")
"""Known console messages of MLflow's pages: a server without accounts, deprecated code, and
parallel coordinates that are first drawn before the size of their card is known."""

GRID = """
return [...document.querySelectorAll('.ag-center-cols-container .ag-row')].map(row => {
  const index = row.getAttribute('row-index');
  const left = document.querySelector(
    `.ag-pinned-left-cols-container .ag-row[row-index="${index}"] a`);
  const place = cell => cell.getBoundingClientRect().x;
  const cells = [...row.querySelectorAll('.ag-cell')].sort((a, b) => place(a) - place(b));
  return {index: Number(index), name: left && left.innerText,
          cells: cells.map(cell => [cell.getAttribute('col-id'), cell.innerText])};
}).sort((a, b) => a.index - b.index)
"""
WHOLE_HEADS = """
const place = cell => cell.getBoundingClientRect();
const page = place(document.querySelector('.ag-header-viewport'));
return [...document.querySelectorAll('.ag-header-viewport [col-id]')].filter(
  cell => place(cell).right <= page.right + 1).sort((a, b) => place(a).x - place(b).x).map(
  cell => cell.getAttribute('col-id')).filter(column => column.startsWith('tags.'))
"""
SCATTER = """
const chart = [...document.querySelectorAll('.js-plotly-plot')].find(
  one => one.data[0].type.startsWith('scatter') && one.querySelector('.points path'));
return chart && {
  x: chart.layout.xaxis.title.text, y: chart.layout.yaxis.title.text,
  drawn: chart.querySelectorAll('.points path').length,
  colors: chart.data[0].marker.color,
  points: chart.data[0].text.map((name, i) => [name, chart.data[0].x[i], chart.data[0].y[i]]),
}
"""
PARALLEL = """
const chart = document.querySelector('.parcoords');
if (!chart) return null;
const canvas = chart.querySelector('canvas.foreground');
const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
return {
  axes: [...chart.querySelectorAll('.dimension .label')].map(label => label.textContent),
  first: [...chart.querySelector('.dimension').querySelectorAll('.tick text')].map(
    tick => tick.textContent),
  misplaced: chart.querySelectorAll('[transform*=NaN]').length,
  inked: new Uint32Array(pixels.buffer).filter(pixel => pixel).length,
}
"""
LEGENDS = """
const first = [...document.querySelectorAll('.js-plotly-plot')].find(
  one => one.data && one.data[0].type === 'bar');
if (!first) {
  const heads = [...document.querySelectorAll('*')].filter(
    one => one.innerText === 'Each score' && !one.children.length);
  if (heads.length) heads[0].scrollIntoView();
  return null;
}
first.scrollIntoView({block: 'center'});
const legends = [...document.querySelectorAll('path[d$=h24]')].map(
  sign => sign.parentElement.parentElement.parentElement);
return [...new Set(legends)].map(legend => {
  const frame = legend.getBoundingClientRect();
  return [...legend.children].filter(entry => {
    const place = entry.getBoundingClientRect();
    return place.bottom <= frame.bottom + 1 && place.right <= frame.right + 1;
  }).map(entry => entry.innerText);
})
"""
FIRST_CASE = """
const row = [...document.querySelectorAll('.ag-center-cols-container .ag-row[row-index="0"]')].find(
  one => one.querySelector('[col-id=case]'));
return row && Object.fromEntries([...row.querySelectorAll('.ag-cell')].map(
  cell => [cell.getAttribute('col-id'), cell.innerText]))
"""
TABLE = """
const rows = [...document.querySelectorAll('[role=row]')].map(row =>
  [...row.querySelectorAll('[role=cell], [role=columnheader]')].map(cell => cell.innerText));
return rows.length > 1 && rows
"""
PICK = """
for (const old of document.querySelectorAll('[data-picked]')) old.removeAttribute('data-picked');
const matches = [...document.querySelectorAll('button, [role=option]')].filter(
  one => one.innerText.replace(/\\s+/g, ' ').trim() === '%s');
if (matches.length) matches[matches.length - 1].setAttribute('data-picked', '');
return matches.length
"""
ESCAPE = "\ue00c"


@dataclasses.dataclass
class Site:
    """The running server, the run in its store, and a browser."""

    browser: Browser
    process: subprocess.Popen[str]
    link: str
    port: int
    run: Run
    pictures: Path
    beside_assistant: list[str] = dataclasses.field(default_factory=list)

    @property
    def cells(self) -> dict[str, Cell]:
        return {cell.editor: cell for cell in self.run.cells}

    def means(self, editor: str) -> dict[str, dict[str, float]]:
        means: dict[str, dict[str, float]] = cell_document(self.run, self.cells[editor])["metrics"]
        return means

    def rows(self, editor: str) -> list[Row]:
        return rows_of(self.run, self.cells[editor])

    def show(self, address: str) -> None:
        """Load a page from scratch, since links differ only in their fragments."""
        self.browser.open("about:blank")
        self.browser.problems()
        self.browser.open(address)

    def view(self, mode: str) -> None:
        self.show(self.link.replace("compareRunsMode=TABLE", f"compareRunsMode={mode}"))

    def pick(self, label: str) -> None:
        self.browser.wait_until(PICK % label)
        self.browser.click("[data-picked]")

    def artifact(self, editor: str, name: str) -> None:
        """Open the page of an artifact from the list of runs."""
        self.view("TABLE")
        place = self.browser.wait_until(
            "const link = [...document.querySelectorAll('a')].find("
            f"link => link.innerText === '{editor} · atlas'); return link && link.href"
        )
        self.show(f"{place.partition('?')[0]}/artifacts/{name}")

    def done(self, name: str) -> None:
        """Save a screenshot; fail if the page logged errors or contacted another machine."""
        self.browser.picture(self.pictures / f"{name}.png")
        mine = [text for text in self.browser.problems() if not any(n in text for n in NOT_OURS)]
        assert mine == []
        assert (
            self.browser.run(
                "return performance.getEntriesByType('resource').map(entry => entry.name)"
                ".filter(name => !name.startsWith(location.origin))"
            )
            == []
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All editors on a few records with every metric, and ``editkit ui`` on them."""
    out = tmp_path_factory.mktemp("results")
    with browsing(tmp_path_factory.mktemp("browser"), size="1440,1000") as browser:
        benchmark = ["run-benchmark", "atlas-generation", "--quiet", "--limit", str(LIMIT)]
        editkit = [sys.executable, "-m", "editkit"]
        environment = {**os.environ, "EDITKIT_CACHE": str(tmp_path_factory.mktemp("cache"))}
        subprocess.run([*editkit, *benchmark, "--out", str(out)], env=environment, check=True)
        port = free_port()
        command = [*editkit, "ui", "--out", str(out), "--port", str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                line = process.stdout.readline() if process.stdout else ""
                name, _, link = line.strip().partition(": ")
                assert name == "editkit/atlas-generation"
                (run,) = runs_in(out)
                pictures = tmp_path_factory.mktemp("pictures")
                site = Site(browser, process, link, port, run, pictures)
                site.show(link)
                # MLflow's assistant opens once in every new browser.
                close = "[data-component-id='mlflow.assistant.chat_panel.close']"
                browser.wait_until(f'return document.querySelector("{close}") !== null')
                browser.wait_for("±")
                site.beside_assistant = browser.run(WHOLE_HEADS)
                browser.picture(pictures / "beside-assistant.png")
                browser.click(close)
                yield site
            finally:
                process.terminate()


def printed(estimate: dict[str, Any]) -> str:
    spread = Estimate(**estimate).spread("{:.1f}".format, 100)
    return f"{round(100 * estimate['mean'], 1) + 0.0:.1f} {spread}".rstrip()


def test_the_list_of_runs_is_the_papers_table_ranked_by_s(site: Site) -> None:
    assert site.beside_assistant[: len(MATTER)] == MATTER
    site.show(site.link)
    site.browser.wait_for("±")
    rows: list[dict[str, Any]] = site.browser.run(GRID)
    site.done("runs-table")
    assert {row["name"] for row in rows} == {f"{editor} · atlas" for editor in EDITORS}
    assert "Ranked by S" in site.browser.text()
    totals = []
    for row in rows:
        means = site.means(row["name"].partition(" ")[0])
        shown = row["cells"][: len(KEYS)]
        assert shown == [[f"tags.`{head}`", printed(means[key])] for head, key in KEYS.items()]
        totals.append(means["summary/score"]["mean"])
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > totals[-1]


def test_the_charts_plot_specificity_against_generalization(site: Site) -> None:
    site.view("CHART")
    chart = site.browser.wait_until(SCATTER)
    assert (chart["x"], chart["y"]) == (KEYS["PS"], KEYS["NS"])
    expected = {
        f"{editor} · atlas": [site.means(editor)[KEYS[head]]["mean"] for head in ("PS", "NS")]
        for editor in EDITORS
    }
    assert chart["drawn"] == len(EDITORS)
    assert {name: at for name, *at in chart["points"]} == {
        name: pytest.approx(at) for name, at in expected.items()
    }
    assert len(set(chart["colors"])) == len(EDITORS)
    words = site.browser.text()
    assert all(words.count(f"{editor} · atlas") > 1 for editor in EDITORS)  # list and legend
    lines = site.browser.wait_until(PARALLEL)
    site.done("charts")
    assert lines["misplaced"] == 0
    assert lines["inked"] > 1000  # lines are drawn, not axes alone
    assert lines["axes"][0] == "editor"
    assert [axis.partition(".")[0][:5] for axis in lines["axes"][1:]] == [
        KEYS[head][:5] for head in ("ES", "PS", "NS", "S")
    ]
    assert sorted(lines["first"]) == sorted(EDITORS)
    words = " ".join(site.browser.text().split())
    assert "All runs at once (2)" in words
    # MLflow cuts off legends of more than two lines.
    legends = site.browser.wait_until(LEGENDS)
    site.done("bars")
    assert len(legends) > 1  # of the scatter plot and of at least one bar chart
    assert all(sorted(legend) == sorted(expected) for legend in legends)


def test_a_run_shows_its_records_as_a_table(site: Site) -> None:
    site.artifact("rome", "records.json")
    head, *lines = site.browser.wait_until(TABLE)
    site.done("records")
    rows = site.rows("rome")
    assert len(lines) == len(rows) == LIMIT
    requests = requests_of(site.run)
    for line, row in zip(lines, rows, strict=True):
        shown = dict(zip(head, line, strict=True))
        [request] = requests[row.case_id]
        assert shown["case_id"] == str(row.case_id)
        assert shown["case"] == f"{row.case_id} · {request.sentence} → {request.target_new}"
        assert shown["was"] == request.target_true
        for key in ("efficacy/score", "paraphrase/magnitude", "neighborhood/score"):
            assert float(shown[key]) == pytest.approx(row.scores[key])


def test_a_run_shows_the_texts_of_its_model(site: Site) -> None:
    site.artifact("rome", "generations.json")
    head, *lines = site.browser.wait_until(TABLE)
    texts = [text for row in site.rows("rome") for text in row.texts["generation"]]
    shown = [" ".join(line[head.index("result")].split()) for line in lines]
    assert shown == [" ".join(text.split()) for text in texts[: len(shown)]]
    site.browser.run("document.querySelectorAll('[role=cell]')[1].click()")
    site.browser.wait_for("Preview")
    site.done("generations")


def test_tables_of_all_runs_are_side_by_side(site: Site) -> None:
    site.view("ARTIFACT")
    site.browser.wait_for("Group by:")
    site.browser.wait_for("S · summary/score")
    site.browser.wait_for(printed(site.means("rome")["summary/score"]))
    site.done("intervals-side-by-side")
    for label in ("Table: intervals.json", "records.json", "intervals.json"):
        site.pick(label)
    site.browser.press(ESCAPE)
    site.browser.wait_for(" · PS ")
    words = " ".join(site.browser.text().split())
    assert "Group by: case" in words
    assert "Compare: result" in words
    for editor, result in first_case(site).items():
        scores = site.rows(editor)[0].scores
        assert result == " · ".join(f"{k} {100 * scores[KEYS[k]]:.1f}" for k in ("ES", "PS", "NS"))
    site.done("records-side-by-side")
    for label in ("Table: records.json", "generations.json", "records.json"):
        site.pick(label)
    site.browser.press(ESCAPE)
    site.browser.wait_for("generation 1 · ")
    for editor, result in first_case(site).items():
        assert result == " ".join(site.rows(editor)[0].texts["generation"][0].split())
    site.done("generations-side-by-side")


def first_case(site: Site) -> dict[str, str]:
    """The comparison's result on the first case, by editor, for the runs that fit on the page."""
    names = site.browser.run(
        "return Object.fromEntries([...document.querySelectorAll('a')]"
        ".filter(link => link.href.includes('/runs/'))"
        ".map(link => [link.href.split('/runs/')[1].split('?')[0], link.innerText]))"
    )
    cells: dict[str, str] = site.browser.wait_until(FIRST_CASE)
    assert cells.pop("case").startswith(f"{site.rows('rome')[0].case_id} · ")
    assert len(cells) > 1
    return {names[place].partition(" ")[0]: " ".join(text.split()) for place, text in cells.items()}


def test_sigterm_stops_the_server(site: Site) -> None:
    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(timeout=30) == 128 + signal.SIGTERM
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", site.port), timeout=5)
