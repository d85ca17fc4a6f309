"""File names are safe on every system, distinct, and never outside their folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit.data_types import Report
from editkit.errors import PluginError
from editkit.storage.file_names import (
    LONGEST,
    distinct_file_names,
    safe_file_name,
    why_unsafe,
    why_unsafe_path,
)

UNSAFE = [
    ("", "is empty"),
    ("  ", "is empty"),
    (".", "begins with '.'"),
    ("..", "begins with '.'"),
    (".hidden", "begins with '.'"),
    ("-rf", "begins with '-'"),
    ("../x", "contains '/'"),
    ("a/b", "contains '/'"),
    ("/etc/passwd", "contains '/'"),
    ("C:\\x", "contains ':'"),
    ("a\\b", "contains"),
    ("a\0b", "contains '\\x00'"),
    ("a\nb", "contains '\\n'"),
    ("it's", "contains"),
    ('a"b', "contains"),
    ("a*b", "contains '*'"),
    ("\ud800", "contains '\\ud800'"),
    ("\u202egnp", "contains '\\u202e'"),
    ("x.", "ends with '.'"),
    ("x ", "ends with ' '"),
    ("con", "Windows"),
    ("NUL.txt", "Windows"),
    ("Com1", "Windows"),
    ("x" * (LONGEST + 1), "bytes long"),
    ("ж" * (LONGEST // 2 + 1), "bytes long"),
]


@pytest.mark.parametrize(("name", "reason"), UNSAFE)
def test_unsafe_names_are_named(name: str, reason: str) -> None:
    assert reason in str(why_unsafe(name))


@pytest.mark.parametrize(
    "name", ["a", "my-traces", "Größe 3", "首都", "v1.2+x", "ft (layer 3)", "con2"]
)
def test_other_names_are_accepted(name: str) -> None:
    assert why_unsafe(name) is None


@given(st.text(max_size=200))
def test_a_name_derived_from_any_text_is_safe(text: str) -> None:
    for name in (
        safe_file_name(text),
        safe_file_name(text, identity=[1]),
        safe_file_name(f"{text}/.."),
    ):
        assert why_unsafe(name) is None
        assert PurePosixPath(name).name == name == PureWindowsPath(name).name


@given(st.lists(st.text(max_size=20), max_size=8, unique=True))
def test_different_texts_get_different_files(texts: list[str]) -> None:
    names = distinct_file_names(texts)
    assert len({name.casefold() for name in names}) == len(texts)


def test_a_safe_and_unique_name_is_unchanged() -> None:
    assert safe_file_name("rome-atlas") == "rome-atlas"
    assert distinct_file_names(["my traces", "other"]) == ["my-traces", "other"]
    assert safe_file_name("a b") != safe_file_name("a-b") == "a-b"
    assert safe_file_name("Rome is in!") != safe_file_name("Rome is in?")
    one, two = distinct_file_names(["Plain", "plain"])
    assert one.startswith("Plain-")
    assert two.startswith("plain-")
    assert safe_file_name("nul.txt").startswith("_nul")


@pytest.mark.parametrize("path", ["", "/x", "../x", "a/../b", "a//b", "a/", "./a", "a/\0", "a/nul"])
def test_paths_do_not_leave_their_folder(path: str) -> None:
    assert why_unsafe_path(path) is not None
    for names in ({"files": {path: Path("x")}}, {"panels": {path: Path("x")}}):
        with pytest.raises(PluginError, match="among its"):
            Report(Path("out"), "k", "n", "f", 0.0, None, **names)


def test_a_path_of_plain_names_is_accepted() -> None:
    assert why_unsafe_path("figures/a b.png") is None
    assert Report(Path("out"), "k", "n", "f", 0.0, None, files={"figures/a.png": Path("x")})
