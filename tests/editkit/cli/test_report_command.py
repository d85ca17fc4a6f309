from __future__ import annotations

import base64
import csv
import dataclasses
import io
import re
import sqlite3
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from editkit import EditRequest, Failure, PublishedTableSpec, Score, hookimpl
from editkit.benchmark.aggregate import Estimate, metrics_of
from editkit.benchmark.published import Published
from editkit.benchmark.store import Store, runs_in
from editkit.figures import NotebookFigure, save_figures
from editkit.registry.plugins import default_registry
from editkit.report import latex, markdown
from editkit.report.sections import sections_of
from editkit.results import Cell, Row, Run

Cli = Callable[..., tuple[int, str, str]]
SCORES = (
    Score("e/score", "ES", summary=True),
    Score("p/score", "PS", summary=True, failure=Failure("generalization", 0.75, of="e/score")),
    Score("p/margin", "PM", signed=True),
    Score("n/score", "NS", summary=True, failure=Failure("specificity", 0.75)),
    Score("odd|_%&", "odd|_%&", higher_is_better=False, scale=1.0),
)
QUALITY = {"none": (0.1, 0.1, 1.0), "good": (1.0, 0.9, 0.9), "bad": (1.0, 0.4, 0.3)}
N = 12


def cell(editor: str, **config: Any) -> Cell:
    print_ = f"{editor}{sorted(config.items())}".ljust(12, "0")
    return Cell(editor, None, config, {}, "d", "1", 0, print_, {})


def run_of(out: Path, *cells: Cell, **changes: Any) -> Run:
    run = Run(
        out=out,
        benchmark="b",
        model={"name": "org/Big_Model", "fingerprint": "f" * 20, "dtype": "float32"},
        dataset={"name": "facts", "digest": "d" * 20, "n_records": N, "config": {}, "rejected": 0},
        metrics=({"name": "e", "protocol": "e/v1"}, {"name": "p", "protocol": "p/v1"}),
        scores=SCORES,
        seeds=(0,),
        cells=cells,
        batch=4,
    )
    return dataclasses.replace(run, **changes)


def rows_of(editor: str, n: int = N, *, texts: bool = True) -> list[Row]:
    rows = []
    for i in range(n):
        e, p, s = (min(1.0, max(0.0, q + 0.02 * (i % 3 - 1))) for q in QUALITY[editor])
        scores = {"e/score": e, "p/score": p, "p/margin": p - 0.5, "n/score": s, "odd|_%&": 7.5 + i}
        written = {"generation": [f"City {i} is <in> Rome & not Paris."]} if texts else {}
        rows.append(Row(i, "done", scores, times={"edit_s": 0.01}, texts=written))
    return rows


def request(i: int) -> EditRequest:
    return EditRequest("{} is <in>", f"City {i}", "Rome", "Paris", relation_id=f"P{i % 3}")


def write(run: Run, rows: dict[str, list[Row]] | None = None) -> Path:
    with Store(run.store) as store:
        store.put_requests(run.dataset["digest"], {i: (request(i),) for i in range(N)})
        for each in run.cells:
            store.put_cell(each.fingerprint, run.describe(each))
            own = rows[each.editor] if rows else rows_of(each.editor)
            store.put_rows(each.fingerprint, own)
    return run.out


@pytest.fixture
def out(tmp_path: Path, fake_world: Path) -> Path:
    return write(run_of(tmp_path / "out", cell("none"), cell("good"), cell("bad")))


def test_a_folder_of_output_folders_is_an_error_that_lists_them(out: Path, editkit: Cli) -> None:
    code, _, err = editkit("report", out.parent)
    assert code == 4
    assert f"Name one of them: {out}." in err


def test_the_table_has_stars_marks_and_a_legend(out: Path, editkit: Cli) -> None:
    code, text, err = editkit("report", out, "--wide")
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert lines[2].split() == [
        "editor",
        "S",
        "ES",
        "PS",
        "PM",
        "NS",
        "odd|_%&",
        "s/edit",
        "records",
    ]
    good, bad = (next(line for line in lines if line.startswith(name)) for name in ("good", "bad"))
    assert "*90.0 -4.2/+3.1" in good
    assert "!" not in good
    assert re.search(r" 40.0 ±1.1! .* 30.0 ±1.8! ", bad)
    words = " ".join(text.split())
    assert "generalization fails with PS below 75% of the editor's own ES" in words
    assert "specificity fails with NS below 75% of the unedited model's" in words
    assert "Paired differences to good" in text
    assert re.search(r"^bad +\*-\d+\.\d ±\d", text, re.MULTILINE)
    assert re.search(r"^P2 +.* 4$", text, re.MULTILINE)


def test_columns_are_chosen_in_every_format(out: Path, editkit: Cli) -> None:
    chosen = ("--columns", "NS,p/score,S,s/edit")
    text = editkit("report", out, *chosen)[1]
    assert text.splitlines()[2].split() == ["editor", "NS", "PS", "S", "s/edit"]
    assert "harmonic mean of ES, PS, NS" in text
    assert "left out" not in text
    assert (
        "| editor | NS | PS | S | s/edit |"
        in editkit("report", out, *chosen, "--format", "markdown")[1]
    )
    assert (
        "editor & NS & PS & S & s/edit" in editkit("report", out, *chosen, "--format", "latex")[1]
    )
    table = csv.DictReader(io.StringIO(editkit("report", out, *chosen, "--format", "csv")[1]))
    scores = {line["score"] for line in table if line["table"] != "edits"}
    assert scores == {"n/score", "p/score", "summary/score"}
    code, _, err = editkit("report", out, "--columns", "S,NSS")
    assert code == 2
    assert "no run here has a column or a score 'NSS'" in err
    assert "Did you mean 'NS'?" in err


def test_failures_are_explained_only_if_one_is_marked(tmp_path: Path, editkit: Cli) -> None:
    out = write(run_of(tmp_path / "out", cell("none"), cell("good")))
    assert "clear failure" not in editkit("report", out)[1]


def test_effects_without_a_bound_and_without_a_difference_have_words(
    out: Path, editkit: Cli
) -> None:
    text = editkit("report", out)[1].partition("Effect sizes to good")[2]
    bad = next(line for line in text.splitlines() if line.startswith("bad "))
    cells = re.split(r"  +", bad)
    assert cells[2:4] == ["0 (none)", "*all lower (7)"]
    words = " ".join(text.split())
    assert "0 (none): the means are equal on these records" in words
    assert "all lower: by the same amount everywhere" in words
    assert "more than this run has" not in words


def test_a_significant_difference_that_needs_more_records_has_a_note(
    tmp_path: Path, editkit: Cli
) -> None:
    lower = [0.9, 0.1, 0.1, 0.1, 0.1, 0.1]  # p = 2 / 2^6, d_z = -0.46
    rows = {"good": rows_of("good"), "bad": rows_of("good")}
    for row, change in zip(rows["bad"], lower, strict=False):
        row.scores["n/score"] -= change
    out = write(run_of(tmp_path / "out", cell("good"), cell("bad")), rows)
    text = editkit("report", out)[1].partition("Effect sizes to good")[2]
    assert "*-0.46 (39)" in text
    assert "needs more than this run has, another run of this size" in " ".join(text.split())


def test_against_chooses_the_reference(out: Path, editkit: Cli) -> None:
    assert "Paired differences to bad" in editkit("report", out, "--against", "bad")[1]
    code, _, err = editkit("report", out, "--against", "godo")
    assert code == 2
    assert "'godo'" in err
    assert "Did you mean 'good'?" in err


def test_csv_has_every_number_in_full_precision(out: Path, editkit: Cli) -> None:
    table = list(csv.DictReader(io.StringIO(editkit("report", out, "--format", "csv")[1])))
    assert {line["table"] for line in table} == {"scores", "relations", "differences", "edits"}
    expected = metrics_of(rows_of("good"), SCORES)
    lines = {
        line["score"]: line
        for line in table
        if line["editor"] == "good" and line["table"] == "scores"
    }
    assert lines.keys() == expected.keys()
    for key, estimate in expected.items():
        assert float(lines[key]["mean"]) == estimate.mean
        assert float(lines[key]["ci_low"]) == estimate.ci_low
        assert int(lines[key]["n"]) == N
    relations = [line for line in table if line["table"] == "relations"]
    assert {line["relation"] for line in relations} == {"P0", "P1", "P2"}


def test_csv_has_both_intervals_and_the_tests_of_differences(out: Path, editkit: Cli) -> None:
    """Neither the paper's formula nor its bounds outside 0 and 1 are lost."""
    tables = [
        list(csv.DictReader(io.StringIO(editkit("report", out, "--format", "csv", *more)[1])))
        for more in ((), ("--intervals", "paper"))
    ]
    assert tables[0] == tables[1]
    [bad] = [
        line
        for line in tables[0]
        if (line["table"], line["editor"], line["score"]) == ("differences", "bad", "p/score")
    ]
    assert float(bad["p_corrected"]) == pytest.approx(2 * 2 / 2**12)  # of 2 editors
    assert (bad["higher"], bad["lower"], bad["effect"], bad["needed"]) == ("0", "12", "", "7")
    for line in tables[0]:
        if line["table"] == "scores" and line["score"] != "odd|_%&" and line["ci_low"]:
            low, high = float(line["ci_low"]), float(line["ci_high"])
            assert -1 <= low < high <= 1
            if line["score"] != "summary/score":
                assert float(line["paper_ci_low"]) > low
    few = {line["p"] for line in tables[0] if line["table"] != "differences"}
    assert few == {""}


def test_the_papers_formula_is_a_choice_and_the_default_next_to_published_numbers(
    out: Path, editkit: Cli
) -> None:
    assert "±0.9" not in editkit("report", out)[1]
    text = editkit("report", out, "--intervals", "paper")[1]
    assert "*90.0 ±0.9" in text
    assert "Intervals have the papers' formula, 1.96 standard errors" in text
    published = Published("a paper", 100, {"good": {"p/score": Estimate(0.9, None, None, 100)}})
    [section] = sections_of(runs_in(out), [(published,)])
    shown = {table.name: table for table in section.tables()}
    assert any("papers' formula" in note for note in shown["scores"].notes)
    assert [line.entries[3].spread for line in shown["scores"].lines[1:3]] == ["±0.9", ""]
    assert not any("papers' formula" in note for note in shown["differences"].notes)


def test_markdown_tables_are_well_formed(out: Path, editkit: Cli) -> None:
    text = editkit("report", out, "--format", "markdown")[1]
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
        assert re.fullmatch(r"\| --- \|( ---: \|)+", table.splitlines()[1])
    assert "odd\\|\\_%&" in tables[0]
    assert re.search(r"\| good .*\*\*90\.0 -4\.2/\+3\.1\*\*", tables[0])


def test_latex_is_balanced(out: Path, editkit: Cli) -> None:
    text = editkit("report", out, "--format", "latex", "--wide")[1]
    body = re.sub(r"(?<!\\)%.*", "", text)
    plain = re.sub(r"\\[\\{}%&_#$]", "", body)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    opened = re.findall(r"\\(begin|end)\{(\w+)\}", body)
    order = " ".join(f"{end} {name}" for end, name in opened)
    table = "begin table begin tabular end tabular( begin minipage end minipage)? end table"
    assert re.fullmatch(f"{table}( {table})+", order)
    assert order.count("begin minipage") == 4  # the notes of a table are below its last part
    for columns, rows in re.findall(
        r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}\n(.*?)\\end\{tabular\}", body, re.DOTALL
    ):
        for line in re.findall(r"(.*) \\\\\n", rows):
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
    assert r"odd\textbar{}\_\%\&" in text
    assert latex.escaped("a_b ~^\\") == r"a\_b \textasciitilde{}\textasciicircum{}\textbackslash{}"
    assert r"\textcolor{red}{" in text


class Page(HTMLParser):
    """Checks that tags are balanced, and collects links to other files."""

    VOID = ("meta", "br", "rect", "line", "circle", "polygon")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in self.VOID:
            self.open.append(tag)
        self.outside += [
            f"{name}={value}"
            for name, value in attrs
            if name in ("src", "srcset", "data") or (name == "href" and not value.startswith("#"))
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_valid_file_without_network_access(out: Path, editkit: Cli) -> None:
    code, output, _ = editkit("report", out, "--format", "html")
    assert (code, output) == (0, f"{out / 'report.html'}\n")
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.outside == []
    assert not re.search(r"https?:|url\(|@import", text)
    assert (
        page.count["table"] == 6 + 2
    )  # scores, spread, differences, effects, matrix, relations; hardest
    # In tables, legend and the hardest records, a swatch stands before each editor's name.
    assert page.count["svg"] - text.count('class="swatch ') == 2 + 3 * 5
    assert "City 0 is &lt;in&gt; <mark>Rome</mark> &amp; not" in text
    assert '<mark class="true">Paris</mark>' in text
    assert text == (editkit("report", out, "--format", "html") and text)


def figure(title: str) -> NotebookFigure:
    drawn = NotebookFigure(width=2, height=1.5, description="What <b>it</b> shows: é.")
    drawn.subplots().set_title(title)
    return drawn


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}'


def test_hostile_names_and_texts_are_inert_on_the_page(
    tmp_path: Path, fake_world: Path, editkit: Cli
) -> None:
    run = run_of(
        tmp_path / "out",
        cell(HOSTILE),
        cell("good"),
        benchmark=HOSTILE,
        model={"name": HOSTILE, "fingerprint": HOSTILE, "dtype": HOSTILE},
        metrics=({"name": HOSTILE, "protocol": HOSTILE},),
        scores=tuple(dataclasses.replace(score, label=HOSTILE) for score in SCORES),
    )
    rows = [
        dataclasses.replace(row, texts={"generation": [HOSTILE, f"Rome {HOSTILE}"]})
        for row in rows_of("good")
    ]
    failed = Row(N, "failed", error=HOSTILE)
    write(run, {HOSTILE: [*rows, failed], "good": rows})
    assert editkit("report", run.out, "--format", "html")[0] == 0
    page = Page()
    page.feed((run.out / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.outside == []
    assert (page.count["script"], page.count.get("img")) == (1, None)


def test_a_page_shows_the_figures_of_a_folder_without_a_run(tmp_path: Path, editkit: Cli) -> None:
    files = save_figures({"one": figure("A <title> & more")}, tmp_path / "traces")
    save_figures({"two": figure("Second")}, tmp_path / "figures")
    (tmp_path / "figures" / "two.svg").unlink()
    code, output, _ = editkit("report", tmp_path, "--format", "html")
    assert (code, output) == (0, f"{tmp_path / 'report.html'}\n")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>A &lt;title&gt; &amp; more</b>" in page
    assert page.count("What &lt;b&gt;it&lt;/b&gt; shows: é.") == 2
    sources = re.findall(r'<img src="([^"]+)"', page)
    assert [source.partition(",")[0] for source in sources] == [
        "data:image/png;base64",
        "data:image/svg+xml;base64",
    ]
    [svg] = [file for file in files if file.suffix == ".svg"]
    assert base64.b64decode(sources[1].partition(",")[2]) == svg.read_bytes()
    assert "https://" not in page
    code, _, err = editkit("report", tmp_path)  # there is no table without a store
    assert code == 4
    assert "--format html" in err


def test_an_unwritable_target_is_an_error(out: Path, editkit: Cli) -> None:
    (out / "report.html").mkdir()
    code, _, err = editkit("report", out, "--format", "html")
    assert code == 2
    assert "report.html" in err
    assert "--to" in err
    target = out / "new" / "table.md"
    assert editkit("report", out, "--format", "markdown", "--to", target)[:2] == (0, f"{target}\n")
    assert target.read_text(encoding="utf-8").startswith("## b: 12 records of facts")


def test_different_runs_never_share_a_table(out: Path, editkit: Cli) -> None:
    other = ({"name": "e", "protocol": "e/v2"}, {"name": "p", "protocol": "p/v1"})
    write(run_of(out, cell("good", again=1), metrics=other))
    code, text, _ = editkit("report", out)
    titles = re.findall(r"^b: 12 records .* \[(\w{6})\]; e/v\d$", text, re.MULTILINE)
    assert code == 0
    assert len(set(titles)) == 2
    assert not re.search(r"^good \(again", text, re.MULTILINE)


def test_missing_and_failed_records_are_reported(
    tmp_path: Path, fake_world: Path, editkit: Cli
) -> None:
    failed = [*rows_of("good")[:-1], Row(N - 1, "failed", error="ValueError: no")]
    out = write(
        run_of(tmp_path / "out", cell("good"), cell("bad")),
        {"good": failed, "bad": rows_of("bad", 5)},
    )
    code, text, _ = editkit("report", out, "--wide")
    words = " ".join(text.split())
    assert code == 0
    assert "warning: bad: 7 of 12 records are missing" in words
    assert "warning: good: 1 of 12 records failed" in words
    assert "ValueError: no" in words
    assert re.search(r"^bad .* 5 of 12$", text, re.MULTILINE)
    assert re.search(r"^good .* 11 \(1 failed\)$", text, re.MULTILINE)


def test_a_run_without_a_single_row_has_a_report(
    tmp_path: Path, fake_world: Path, editkit: Cli
) -> None:
    out = write(run_of(tmp_path / "out", cell("good"), cell("bad")), {"good": [], "bad": []})
    for form in ("text", "markdown", "latex", "csv", "html"):
        assert editkit("report", out, "--format", form)[0] == 0


def test_a_folder_without_results_is_an_error(
    tmp_path: Path, fake_world: Path, editkit: Cli
) -> None:
    code, _, err = editkit("report", tmp_path / "nowhere")
    assert code == 4
    assert "there is no result store" in err
    Store(tmp_path / "empty" / "results.sqlite").close()
    code, _, err = editkit("report", tmp_path / "empty")
    assert code == 4
    assert "has no benchmark results yet" in err


def test_stores_of_early_versions_are_read(out: Path, editkit: Cli) -> None:
    with sqlite3.connect(out / "results.sqlite") as connection:
        connection.execute("DROP TABLE requests")
        connection.execute("DROP TABLE environments")
        connection.execute("ALTER TABLE cells DROP COLUMN checksum")
        connection.execute("PRAGMA user_version = 1")
        connection.execute(
            "UPDATE cells SET description = replace(description, '\"failure\":null,', '')"
        )
    connection.close()
    code, text, _ = editkit("report", out)
    assert code == 0
    assert "Paired differences" in text
    assert "by relation" not in text
    assert editkit("report", out, "--format", "html")[0] == 0
    write(run_of(out, cell("good")))  # and written to
    assert "S by relation" in editkit("report", out)[1]


def test_labels_show_differing_settings(tmp_path: Path, fake_world: Path, editkit: Cli) -> None:
    cells = [cell("good", layer=layer, eps=eps) for layer in (1, 2) for eps in (0.001, 0.25)]
    text = editkit("report", write(run_of(tmp_path / "out", *cells)))[1]
    assert "good (eps 0.001, layer 1)" in text
    assert "good (eps 0.25, layer 2)" in text


PUBLISHED = """
source: "A paper, table 1"
dataset: facts
columns:
  summary/score: {e: e/v*, p: p/v1}
  e/score: {e: e/v*}
  p/score: {p: p/v2}
tables:
  - model: big_model
    records: 7500
    rows: {none: [10.0, 5.0], good: [91.25, 99.0, 80.0], other: [1.0]}
"""


class PaperPlugin:
    @hookimpl
    def editkit_published_tables(self) -> list[PublishedTableSpec]:
        return [PublishedTableSpec("paper", "some_package:published.yaml", "a paper")]


@pytest.fixture
def published(fake_world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delitem(sys.modules, "some_package", raising=False)
    folder = fake_world / "some_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "published.yaml").write_text(PUBLISHED, encoding="utf-8")
    default_registry().register(PaperPlugin(), name="paper-plugin")
    return folder / "published.yaml"


def test_published_numbers_are_below_ours_if_protocols_agree(
    out: Path, published: Path, editkit: Cli
) -> None:
    text = editkit("report", out, "--wide")[1]
    lines = text.splitlines()
    [i] = [i for i, line in enumerate(lines) if line.startswith("  good, published")]
    assert lines[i - 1].startswith("good ")
    assert lines[i].split() == [
        "good,",
        "published",
        "91.2",
        "99.0",
        "-",
        "-",
        "-",
        "-",
        "-",
        "7500",
    ]
    assert "Published: A paper, table 1." in text
    assert "other" not in text
    table = list(csv.DictReader(io.StringIO(editkit("report", out, "--format", "csv")[1])))
    numbers = {
        line["score"]: float(line["mean"])
        for line in table
        if line["table"] == "published" and line["editor"] == "good"
    }
    assert numbers == {"summary/score": 0.9125, "e/score": 0.99}


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"name": "other", "fingerprint": "f", "dtype": "float32"}},
        {"metrics": ({"name": "e", "protocol": "other"}, {"name": "p", "protocol": "p/v1"})},
        {"dataset": {"name": "mine", "digest": "d" * 20, "n_records": N}},
    ],
)
def test_published_numbers_of_other_protocols_are_not_shown(
    changes: dict[str, Any], tmp_path: Path, published: Path, editkit: Cli
) -> None:
    out = write(run_of(tmp_path / "other", cell("good"), **changes))
    assert "published" not in editkit("report", out)[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("records: 7500", "records: many", "got 'many'"), ("dataset: facts", "x: 1", "unknown field")],
)
def test_an_invalid_file_of_published_numbers_is_an_error(
    old: str, new: str, message: str, out: Path, published: Path, editkit: Cli
) -> None:
    published.write_text(PUBLISHED.replace(old, new), encoding="utf-8")
    code, _, err = editkit("report", out)
    assert code == 2
    assert message in err
    assert "published.yaml" in err


def test_markdown_renders_text_literally() -> None:
    assert markdown.escaped("a|b *c* <d>\n_e_") == "a\\|b \\*c\\* \\<d\\> \\_e\\_"


@pytest.mark.parametrize(
    ("name", "begins"),
    [("r.html", "<!doctype html>"), ("r.CSV", "table,"), ("r.md", "## b: 12"), ("r.txt", "b: 12")],
)
def test_the_file_suffix_chooses_the_format(
    out: Path, editkit: Cli, tmp_path: Path, name: str, begins: str
) -> None:
    target = tmp_path / name
    assert editkit("report", out, "--to", target)[0] == 0
    assert target.read_text(encoding="utf-8").lower().startswith(begins), target.read_text()[:80]


def test_an_unknown_suffix_is_refused(out: Path, editkit: Cli, tmp_path: Path) -> None:
    code, _, err = editkit("report", out, "--to", tmp_path / "r.pdf")
    assert code == 2
    assert "no format has the suffix '.pdf'" in err
    assert not (tmp_path / "r.pdf").exists()
    assert editkit("report", out, "--format", "text", "--to", tmp_path / "r.pdf")[0] == 0
