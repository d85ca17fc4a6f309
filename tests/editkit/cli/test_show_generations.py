"""What edited models wrote, side by side."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from editkit.cli.show_generations import _marked
from editkit.safe_text import one_line
from editkit.terminal import rendered

Cli = Callable[..., tuple[int, str, str]]
CODE = re.compile(r"\x1b\[[0-9;]*m")
WORDS = ("--metrics", "words", "--set", 'dataset.config.texts=["one","two"]', "--limit", 3)


@pytest.fixture
def out(editkit: Cli, tmp_path: Path, fake_world: Path) -> Path:
    """Results of two editors with two texts a case."""
    code, _, message = editkit("run-benchmark", "small", *WORDS, "--out", tmp_path / "out")
    assert code == 0, message
    return tmp_path / "out"


def test_columns_are_in_the_order_of_the_editor_flags(editkit: Cli, out: Path) -> None:
    code, text, _ = editkit(
        "show-generations", 1000, "--out", out, "--editor", "two", "--editor", "one", "--width", 70
    )
    assert code == 0
    lines = text.splitlines()
    assert lines[:2] == ["case 1000 of few, small on tiny:", "subject 0 lives in Rome"]
    assert lines[3].split() == ["two", "|", "one"]
    assert lines[4] == "-" * 70
    assert "seed 0" in lines[5]
    assert lines[5].count(" | ") == 1
    assert "\x1b" not in text
    assert max(map(len, lines)) <= 70


def test_narrow_columns_are_stacked(editkit: Cli, out: Path) -> None:
    code, text, _ = editkit("show-generations", 1000, "--out", out, "--width", 30)
    assert code == 0
    assert " | " not in text
    assert text.splitlines()[5:7] == ["one", "  seed 0"]


def test_targets_are_marked_on_a_terminal(
    out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from editkit.cli.main import main

    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout", terminal)
    assert main(["show-generations", "1000", "--out", str(out), "--width", "80"]) == 0
    text = terminal.getvalue()
    assert "\x1b[1;32mRome\x1b[0m" in text
    assert CODE.sub("", text).startswith("case 1000 of few")


def test_the_document_has_the_stored_texts(editkit: Cli, out: Path) -> None:
    code, text, _ = editkit("show-generations", 999, "--out", out, "--json")
    document: Any = json.loads(text)
    assert code == 0
    [run] = document["runs"]
    assert run["request"]["target_new"] == "Rome"
    assert run["texts"] == {name: ["seed 0", "and more"] for name in ("one", "two")}


def test_missing_texts_are_errors_with_hints(editkit: Cli, out: Path, tmp_path: Path) -> None:
    code, _, message = editkit("show-generations", 5, "--out", out)
    assert code == 2
    assert "no texts of case 5" in message
    assert "998, 999, 1000" in message
    code, _, message = editkit("show-generations", 1000, "--out", out, "--editor", "ome")
    assert code == 2
    assert "did you mean 'one'" in message.lower()
    code, _, message = editkit("show-generations", 1000, "--out", tmp_path / "absent")
    assert code == 4
    editkit("run-benchmark", "small", "--metrics", "fake", "--out", tmp_path / "none")
    code, _, message = editkit("show-generations", 1000, "--out", tmp_path / "none")
    assert code == 2
    assert "has no texts" in message
    assert "--metrics fluency" in message


def lines_of(text: str, width: int, marks: dict[str, str], *, terminal: bool = True) -> list[str]:
    return rendered(_marked(text, marks), terminal=terminal, width=width).splitlines()


def test_words_are_marked_whole_over_line_ends_and_in_any_case() -> None:
    marks = {"New York": "bold"}
    assert lines_of("He saw new york, New Yorkers and New\nYork", 16, marks) == [
        "He saw \x1b[1mnew york\x1b[0m,",
        "New Yorkers and",
        "\x1b[1mNew York\x1b[0m",
    ]
    two = lines_of("He lives in New York", 15, marks)
    assert [CODE.sub("", line) for line in two] == ["He lives in New", "York"]
    assert two[1] == "\x1b[1mYork\x1b[0m"


def test_texts_cannot_control_the_terminal() -> None:
    assert lines_of("a\x1b[2J\nb\x07 [red]c\ud800", 80, {}) == [r"a\x1b[2J b\x07 [red]c\ud800"]


def test_wide_letters_take_two_characters_of_a_line() -> None:
    assert lines_of("東京東京 abc", 5, {}) == ["東京", "東京", "abc"]


@given(st.text(max_size=80), st.integers(min_value=2, max_value=30))
def test_nothing_is_lost_and_no_line_is_too_long(text: str, width: int) -> None:
    lines = lines_of(text, width, {"a": "bold"}, terminal=False)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(one_line(text).split())
