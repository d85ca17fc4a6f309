"""Folders that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from editkit.storage.new_folder import new_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_name_exists_only_after_the_block(tmp_path: Path) -> None:
    target = tmp_path / "a" / "new"
    with new_folder(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("content")
        assert not target.exists()
    assert (target / "inner" / "file").read_text() == "content"
    assert names(target.parent) == ["new"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "new") as folder:
            (folder / "file").write_text("content")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == []


def test_what_exists_is_never_replaced(tmp_path: Path) -> None:
    def write(name: str, meanwhile: str = "") -> None:
        with new_folder(tmp_path / name):
            if meanwhile:
                (tmp_path / name).mkdir()
                (tmp_path / name / meanwhile).write_text("mine")

    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        write("file")
    with pytest.raises(FileExistsError):
        write("later", meanwhile="notes")
    assert (tmp_path / "later" / "notes").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    write("empty")
    assert names(tmp_path) == ["empty", "file", "later"]


def test_only_folders_without_a_living_writer_are_removed(tmp_path: Path) -> None:
    """Also under a name with characters that patterns use."""
    target = tmp_path / "new [1]*"
    dead, alive = (tmp_path / f".{target.name}.editkit-{which}" for which in ("dead", "alive"))
    other = tmp_path / ".new 1.editkit-x"
    for folder in (dead, alive, other):
        folder.mkdir()
    with FileLock(alive.with_name(f"{alive.name}.lock")), new_folder(target):
        assert not dead.exists()
    assert alive.exists()
    assert other.exists()
    assert target.exists()
