"""Untrusted text in tables, terminals and spreadsheets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit.report import latex
from editkit.report.tables import Entry, Line, Table
from editkit.report.text import text_table
from editkit.safe_text import one_line, shortened, spreadsheet_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, as it is", "plain, as it is"),
        ("  indented ±1.0", "  indented ±1.0"),
        ("a\r\n\tb\u2028c\x85d", "a b c d"),
        ("\x1b[2Jgone\x07\x9b", "\\x1b[2Jgone\\x07\\x9b"),
        ("\u202eabc\u2069", "\\u202eabc\\u2069"),
        ("אבג 漢字 💥 👩\u200d🔬", "אבג 漢字 💥 👩\u200d🔬"),
        ("\ud800", "\\ud800"),
    ],
)
def test_one_line(text: str, shown: str) -> None:
    assert one_line(text) == shown


@settings(max_examples=300, derandomize=True)
@given(st.text())
def test_one_line_is_one_line_without_control_characters(text: str) -> None:
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert one_line(shown) == shown
    assert len(shortened(shown, 10)) <= 10


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+cmd()", "'+1+cmd()"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"),
        ("-1.5e-07", "-1.5e-07"),
        ("+3", "+3"),
        ("-", "-"),
        ("=", "="),
        ("ft+l", "ft+l"),
        ("", ""),
    ],
)
def test_spreadsheets_get_no_formulas(text: str, cell: str) -> None:
    assert spreadsheet_text(text) == cell


BAD = ["a\nb", "x" * 400, "\x1b[31mred", "\u202eback", "one\n\ntwo", "50% \\input{x}"]


def test_untrusted_text_does_not_break_tables() -> None:
    lines = tuple(Line((Entry(bad), Entry("1.0"))) for bad in BAD)
    table = text_table(Table("scores", "t", ("relation", "S"), lines), terminal=False).splitlines()
    assert len(table) == 2 + len(BAD)
    assert len({len(line) for line in table}) == 1
    assert max(map(len, table)) < 80
    for bad in BAD:
        assert "\n" not in latex.escaped(bad)
