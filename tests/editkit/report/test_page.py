"""The HTML page: editors look the same everywhere, columns are explained, figures are embedded."""

from __future__ import annotations

import dataclasses
import math
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from editkit.benchmark.aggregate import SUMMARY, Estimate
from editkit.benchmark.store import runs_in
from editkit.editing.outcomes import BASELINE
from editkit.figures import NotebookFigure, save_figures
from editkit.palette import GREY
from editkit.registry.plugins import default_registry
from editkit.registry.specs import MetricSpec
from editkit.registry.styles import style_of
from editkit.report import folder_figures, html_page, svg
from editkit.report.folder_figures import folder_content
from editkit.report.marks import marker, marks_of
from editkit.report.sections import sections_of
from tests.browser import browsing
from tests.editkit.report.shared_runs import write_shared


def page_of(out: Path) -> str:
    runs = runs_in(out)
    return html_page.report(sections_of(runs, [()] * len(runs)), against=None)


TAB, ESCAPE = "\ue004", "\ue00c"


# ---------------------------------------------------------------- styles


def test_an_editor_has_one_style_in_every_table_and_plot(tmp_path: Path) -> None:
    write_shared(tmp_path)
    page = page_of(tmp_path)
    colors = dict(re.findall(r"^\.(color-\d+) \{ --mark: (#\w{6}); \}", page, re.M))
    light, dark = page.rpartition("prefers-color-scheme: dark)")[::2]
    for editor in (BASELINE, "rome", "memit"):
        style = style_of(editor)
        drawn = set(re.findall(rf'<g class="mark (color-\d+)"><title>{editor}(?: \(|:)', page))
        swatch = rf'class="swatch (color-\d+)"(?:(?!</svg>).)*</svg> (?:<span>)?{editor}\b'
        named = set(re.findall(swatch, page))
        [css] = drawn | named
        assert f".{css} {{ --mark: {style.color}; }}" in light
        assert f".{css} {{ --mark: {style.dark}; }}" in dark
    assert len(colors) == 3
    assert style_of(BASELINE).color == GREY


def test_an_editor_keeps_its_mark_in_other_regimes(tmp_path: Path) -> None:
    write_shared(tmp_path)
    [section] = sections_of(runs_in(tmp_path), [()])
    marks = html_page._marks([section])
    names = ["rome", "rome (joint 10)", "rome (sequential 20)"]
    assert {marks[name].style for name in names} == {style_of("rome")}
    joint, sequence = marks["rome (joint)"].style, marks["rome (sequential 20)"].style
    assert (joint.color, joint.marker) == (sequence.color, sequence.marker)
    assert joint.dash != sequence.dash
    series = tuple(each for each in section.series if each.regime.kind == "joint")
    results = tuple(each for each in section.results if each.series in series)
    only = dataclasses.replace(section, series=series, results=results)
    assert html_page._marks([only])["rome (joint)"].style == style_of("rome")
    legend = [label for _, labels in html_page._legend(section) for label, _ in labels]
    assert {"rome", "rome (joint)"} < {*legend}
    assert "rome (joint)" not in [each for _, line in html_page._legend(only) for each, _ in line]


def test_settings_of_one_editor_differ_in_shape() -> None:
    marks = marks_of({"rome (layer 1)": "rome", "rome (layer 2)": "rome", "r-rome": "r-rome"})
    assert len({mark.css for mark in marks.values()}) == 1
    assert len({str(marker(mark, 0, 0)) for mark in marks.values()}) == 3


def test_labels_avoid_marks() -> None:
    marks = marks_of({"a long label": "rome", "b": "ft"})
    at = [(Estimate(0.5, 0.5, 0.5, 0), "a long label"), (Estimate(0.6, 0.6, 0.6, 0), "b")]
    level = Estimate(0.5, 0.5, 0.5, 0)
    points = [svg.Point(label, x, level, marks[label]) for x, label in at]
    plot = svg.scatter(points, "x", "y", scale=1)
    assert re.findall(r'<text [^>]*class="(halo[^"]*)">', plot) == ["halo end", "halo"]
    many = svg.scatter(points * 7, "x", "y", scale=1)  # no room for 14 labels
    labels = re.findall(r'class="halo[^"]*">([^<]*)<', many)
    assert sorted(labels) == ["a long label", *"bbbbbbb"]  # the best eight


def test_long_names_in_plots_stay_distinct() -> None:
    positions = ("subject_first", "subject_first_after_last", "last")
    names = [f"rome (layer {i}, position {each})" for i in (0, 1) for each in positions]
    assert svg.shown_names(names)[1] == "rome (layer 0, subject_first_after_last)"
    unbroken = [f"{'a' * 60}{i}" for i in range(3)]
    shown = svg.shown_names(unbroken)
    assert len({*shown}) == 3
    assert max(map(len, shown)) <= 42
    middles = [f"{'a' * 40}{i}{'a' * 40}" for i in range(3)]
    assert svg.shown_names(middles) == middles  # a cut would make them equal
    assert svg.shown_names(["ft (norm true)"]) == ["ft (norm true)"]


def test_short_logarithmic_axes_have_ticks_between_powers_of_ten() -> None:
    assert svg.Axis(0, math.log10(8), 0, 1, logarithmic=True).ticks() == [1, 2, 5]
    assert svg.Axis(0, 1, 0, 1, logarithmic=True).ticks() == [1, 2, 5, 10]
    assert svg.Axis(0, 3, 0, 1, logarithmic=True).ticks() == [1, 10, 100, 1000]


# ---------------------------------------------------------------- columns


class Heads(HTMLParser):
    """Column heads with their explanation, and the tag that has it."""

    def __init__(self) -> None:
        super().__init__()
        self.explained: dict[str, tuple[str, str]] = {}
        self._open: tuple[str, str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("class") == "explained":
            assert tag == "button" or given.get("tabindex") == "0"
            self._open = (tag, given.get("title") or "")

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.explained[data] = self._open
            self._open = None


def test_columns_are_explained_by_the_descriptions_of_their_scores(tmp_path: Path) -> None:
    write_shared(tmp_path)
    heads = Heads()
    heads.feed(page_of(tmp_path))
    metric = default_registry().get("metric", "efficacy").spec
    assert isinstance(metric, MetricSpec)
    [efficacy] = [score for score in metric.scores if score.key == "efficacy/score"]
    assert efficacy.description in heads.explained["ES"][1]
    assert SUMMARY.description in heads.explained["S"][1]
    assert "higher is better" in heads.explained["ES"][1]
    assert heads.explained.keys() >= {"S", "ES", "NS", "at", "models", "s/edit", "records", "minus"}


@pytest.mark.slow  # starts a browser
def test_an_explanation_opens_at_the_focus_and_escape_closes_it(tmp_path: Path) -> None:
    write_shared(tmp_path / "out")
    file = tmp_path / "page.html"
    file.write_text(page_of(tmp_path / "out"), encoding="utf-8")
    with browsing(tmp_path) as browser:
        browser.open(file.as_uri())
        shown = "return document.querySelector('#help:not([hidden])')?.textContent ?? ''"
        at_focus = "return document.activeElement.getAttribute('aria-description') ?? ''"
        assert browser.run(shown) == ""
        browser.press(*[TAB] * 3)  # past the table, to the head of its second column
        assert browser.run(shown) == html_page._COLUMNS["edits"]
        assert browser.run(at_focus) == browser.run(shown)
        browser.press(ESCAPE)
        assert browser.run(shown) == ""
        assert browser.problems() == []


# ---------------------------------------------------------------- figures of the folder


def figure(title: str) -> NotebookFigure:
    drawn = NotebookFigure(width=2, height=1.5, description="What <b>it</b> shows: é.")
    panel = drawn.subplots()
    panel.plot([1, 2])
    panel.set_title(title)
    return drawn


SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:x="http://www.w3.org/1999/xlink">{}</svg>'


def png(width: int, height: int) -> bytes:
    data = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IHDR" + data
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(data))
    return start + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<script>alert(1)</script>", "an element 'script'"),
        ("<foreignObject/>", "an element 'foreignobject'"),
        ('<g onload="alert(1)"/>', "a script in the attribute 'onload'"),
        ('<image x:href="https://example.org/a.png"/>', "something outside the file"),
        ('<image href="file:///etc/hosts"/>', "something outside the file"),
        ('<use href="data:image/svg+xml;base64,PHN2Zz4="/>', "something outside the file"),
        ('<g style="fill: url( https://example.org/a)"/>', "something outside the file"),
        ("<style>@import 'a.css';</style>", "something outside the file"),
        ("<g>", "not an SVG file"),
    ],
)
def test_an_svg_that_is_more_than_a_drawing_is_left_out(
    tmp_path: Path, content: str, reason: str
) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "bad.svg").write_text(SVG.format(content), encoding="utf-8")
    fine = '<style>g { fill: url(#a) }</style><use x:href="#a"/><g style="clip-path: url(\'#a\')"/>'
    (tmp_path / "figures" / "fine.svg").write_text(SVG.format(fine), encoding="utf-8")
    shown = folder_content(tmp_path)
    assert [each.path for each in shown.figures] == ["figures/fine.svg"]
    [line] = shown.left_out
    assert line.startswith("figures/bad.svg: ")
    assert reason in line


def test_limits_and_links_keep_files_off_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside.svg"
    outside.write_text(SVG.format(""), encoding="utf-8")
    folder = tmp_path / "out" / "figures"
    folder.mkdir(parents=True)
    (folder / "link.svg").symlink_to(outside)
    (folder / "bomb.svg").write_text(f'<!DOCTYPE svg [<!ENTITY a "a">]>{SVG.format("&a;")}')
    (folder / "vast.png").write_bytes(png(100_000, 100_000))
    (folder / "text.png").write_text("no image")
    (folder / "long.svg").write_text(SVG.format(" " * 5_000))
    for i in range(3):
        (folder / f"small-{i}.svg").write_text(SVG.format(" " * 1_500))
    for i in range(3):
        (folder / f"table-{i}.csv").write_text("a\n1\n")
    monkeypatch.setattr(folder_figures, "_MOST_TABLES", 1)
    monkeypatch.setattr(folder_figures, "_MOST_BYTES", 4_000)
    monkeypatch.setattr(folder_figures, "_MOST_BYTES_TOGETHER", 4_000)
    shown = folder_content(tmp_path / "out")
    assert [each.path for each in shown.figures] == ["figures/small-0.svg", "figures/small-1.svg"]
    assert len(shown.tables) == 1
    assert shown.left_out[0] == "2 tables: a page reads the first 1"
    names = ("bomb.svg", "long.svg", "small-2.svg", "text.png", "vast.png")
    starts = [line.partition(": ")[0] for line in shown.left_out[1:]]
    assert starts == [f"figures/{name}" for name in names]
    assert "entities" in shown.left_out[1]
    assert "larger than" in shown.left_out[2]
    page = html_page.report([], against=None, folder=shown)
    assert "figures/vast.png: 100000 by 100000 pixels" in page


def test_average_effects_are_a_table_and_their_panels_are_shown_once(tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    save_figures({"facts-maps": figure("Maps"), "facts-state": figure("Panel")}, folder)
    head = "kind,role,layer,mean,ci_low,ci_high,n\n"
    rows = "".join(f"state,last subject token,{i},0.{i}87,0.1,0.4,30\n" for i in range(3))
    (folder / "facts.csv").write_text(f"{head}{rows}mlp,first,0,,,,30\n", encoding="utf-8")
    (folder / "plain.csv").write_text("editor,S\nrome,0.123456789\n<b>,1\n", encoding="utf-8")
    (folder / "odd.csv").write_text("a,b\n1\n", encoding="utf-8")
    shown = folder_content(tmp_path)
    assert [(each.path, each.title) for each in shown.figures] == [
        ("figures/facts-maps.svg", "Maps")
    ]
    assert shown.figures[0].shape == pytest.approx(2 / 1.5)
    state, mlp, plain = shown.tables
    assert state.title == "Maps: average effects of restored hidden states"
    assert [entry.text for entry in state.lines[0].entries] == [
        "last subject token",
        *("8.7", "18.7", "28.7"),
    ]
    assert state.lines[0].entries[3].level == 1.0
    assert mlp.lines[0].entries[1].text == "-"
    assert plain.lines[0].entries[1].text == "0.1235"
    assert shown.left_out == ("figures/odd.csv: its lines have different numbers of columns",)
    page = html_page.report([], against=None, folder=shown)
    assert "&lt;b&gt;" in page
    assert "30 facts" in page
