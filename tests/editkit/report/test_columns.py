"""Tables fit their page: which columns are kept, and what a reader learns about the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from rich.cells import cell_len

from editkit import Score
from editkit.report.columns import by_importance
from editkit.report.lines import scores_by_head
from editkit.report.tables import Entry, Line, Table
from editkit.report.text import fitted
from editkit.terminal import aligned, column_blocks, line_width

SCORES = (
    Score("summary/score", "S", name="harmonic mean"),
    Score("efficacy/score", "ES", summary=True, name="efficacy"),
    Score("efficacy/magnitude", "EM", signed=True, name="margin of ES"),
    Score("paraphrase/score", "PS", summary=True, name="paraphrase"),
    Score("neighborhood/score", "NS", summary=True, name="neighborhood"),
    Score("same_subject/score", "SS"),
)
HEAD = ("editor", *(score.label for score in SCORES), "s/edit", "records")
TABLE = Table(
    "scores",
    "",
    HEAD,
    tuple(Line((Entry(name), *[Entry("100.0", "-20.4/+0")] * 6, Entry("0.1"), Entry("12")))
          for name in ("none", "rome")),
    scores=scores_by_head(SCORES, SCORES),
)  # fmt: skip


def shown_at(width: int, **options: bool) -> tuple[list[str], str]:
    text, notes = fitted(TABLE, terminal=True, width=width, **options)
    blocks = [block.splitlines() for block in text.split("\n\n")]
    assert width < 30 or all(cell_len(line) <= width for block in blocks for line in block)
    heads = [blocks[0][0].split(), *(block[0].split()[1:] for block in blocks[1:])]
    return sum(heads, []), " ".join(notes.split())  # noqa: RUF017


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (150, []),
        (118, ["records"]),
        (109, ["s/edit", "records"]),
        (101, ["EM", "s/edit", "records"]),
        (80, ["EM", "SS", "s/edit", "records"]),
        (40, ["EM", "SS", "s/edit", "records"]),
        (12, ["EM", "SS", "s/edit", "records"]),
    ],
)
def test_the_least_important_columns_are_left_out_and_named(
    width: int, left_out: Sequence[str]
) -> None:
    heads, notes = shown_at(width)
    assert heads == [head for head in HEAD if head not in left_out]
    assert ("--wide shows all columns." in notes) == bool(left_out)
    if left_out:
        assert f"Columns left out: {', '.join(left_out)}." in notes


@pytest.mark.parametrize("width", [118, 101, 80])
def test_marks_cost_no_column(width: int) -> None:
    bold, failed = (
        dataclasses.replace(TABLE.lines[0].entries[1], **{mark: True})
        for mark in ("bold", "failed")
    )
    lines = [
        dataclasses.replace(line, entries=(line.entries[0], *[each] * 6, *line.entries[7:]))
        for line, each in zip(TABLE.lines, (bold, failed), strict=True)
    ]
    starred = dataclasses.replace(TABLE, lines=(lines[0], TABLE.lines[1]))
    plain, _ = fitted(TABLE, terminal=False, width=width)
    text, _ = fitted(starred, terminal=False, starred=True, width=width)
    head, _, first, _ = text.splitlines()
    assert head.split() == plain.split("\n")[0].split()
    assert first.count("*100.0 -20.4/+0") >= 4
    assert all(len(line) <= width for line in text.splitlines())
    # A failure in the last column may need one character more.
    both = dataclasses.replace(TABLE, lines=tuple(lines))
    text, _ = fitted(both, terminal=False, starred=True, width=width + 1)
    assert text.splitlines()[0].split() == head.split()
    assert text.splitlines()[3].count("100.0 -20.4/+0!") >= 4
    assert all(len(line) <= width + 1 for line in text.splitlines())


def test_wide_tables_have_every_column_in_lines_that_fit() -> None:
    heads, notes = shown_at(60, wide=True)
    assert heads == list(HEAD)
    assert "left out" not in notes
    text, _ = fitted(TABLE, terminal=False, wide=True)
    assert len(text.splitlines()) == 4  # in a pipe, a line is as long as it needs to be


def test_the_legend_explains_the_columns_that_are_shown_and_not_again() -> None:
    assert shown_at(80)[1].startswith(
        "S: harmonic mean of ES, PS, NS; ES: efficacy; PS: paraphrase; NS: neighborhood. Columns"
    )
    assert "SS: same_subject/score." in shown_at(150)[1]
    assert fitted(TABLE, terminal=True, width=150, explained=HEAD)[1] == ""


def test_scores_that_are_not_summed_up_come_before_signed_ones() -> None:
    assert [HEAD[i] for i in by_importance(TABLE)] == [
        "S", "ES", "PS", "NS", "SS", "EM", "s/edit", "records",
    ]  # fmt: skip


def test_the_parts_of_a_wide_table_have_about_as_many_columns_each() -> None:
    parts = list(column_blocks([10] * 6, limit=60, gap=2, keys=1))
    assert parts == [[0, 1, 2, 3], [0, 4, 5]]


@pytest.mark.parametrize(
    ("columns", "terminal", "width"),
    [
        ("", False, 100),
        ("0", False, 100),
        ("many", False, 100),
        ("61", False, 61),
        ("61", True, 61),
    ],
)
def test_columns_of_the_environment_decide_the_width_also_in_a_pipe(
    columns: str, terminal: bool, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert line_width(terminal=terminal) == width


def test_lists_that_do_not_fit_continue_below_and_lose_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [f"word-{i}" for i in range(12)]
    rows = [("editor", *words), ("rome", *words)]
    assert len(aligned(rows).splitlines()) == 2  # in a pipe
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    printed = aligned(rows)
    assert max(map(len, printed.splitlines())) <= 40
    assert printed.count("rome") > 1
    assert all(printed.count(word) >= 2 for word in words)
