"""Full disks: what is there stays, the error names the disk, and the same command completes it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from editkit import CacheError, StoreError, TrackingError
from editkit.benchmark.store import Store
from editkit.cli.main import main
from editkit.results import STORE_FILE, Row
from editkit.storage.cache import cached_tensors, cached_texts, write_atomically
from editkit.storage.checkpoints import read_checkpoint, write_checkpoint
from editkit.storage.machine import is_about_space, space_left
from editkit_benchmarks.atlas import train as atlas_training
from editkit_benchmarks.atlas.tokenizer import save_tokenizer
from editkit_plugins.learned.settings import MendSettings
from editkit_plugins.learned.trained import FILE, read_editor_file, save_trained
from editkit_plugins.learned.training.trainer import CHECKPOINT_FILE, Progress
from editkit_plugins.mlflow_tracking.tracker import Tracker

FULL = os.strerror(errno.ENOSPC)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Inside, files can be made, but nothing reaches the disk, as where blocks come late."""

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, FULL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        yield


def files(folder: Path) -> dict[str, bytes]:
    """All files but locks, which stay, by name."""
    contents = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in contents}


# ---------------------------------------------------------------- one file


def test_a_file_is_as_it_was_and_the_error_names_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"earlier")
    with full_disk(), pytest.raises(OSError, match=FULL) as caught:
        write_atomically(path, b"later")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert files(tmp_path) == {"file": b"earlier"}


def test_what_is_about_space() -> None:
    wrapped = RuntimeError("could not be written")
    wrapped.__cause__ = OSError(errno.ENOSPC, FULL)
    assert is_about_space(wrapped)
    assert is_about_space(sqlite3.OperationalError("database or disk is full"))
    assert not is_about_space(OSError(errno.EACCES, os.strerror(errno.EACCES)))
    assert not is_about_space(RuntimeError("out of memory"))


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let the system report so many free bytes."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=size))


def test_space_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 12 << 10)
    assert space_left(tmp_path / "no" / "such") == "; its disk is full: 12 KiB are free"
    free(monkeypatch, 12 << 20)
    assert space_left(tmp_path) == ""


# ---------------------------------------------------------------- cache, checkpoints, editors


def test_cache_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path))
    made = {"total": torch.arange(4.0)}
    for ask in (
        lambda: cached_tensors("second_moment", {"of": "x"}, lambda: made),
        lambda: cached_texts("contexts", {"of": "x"}, lambda: ["a"]),
    ):
        with full_disk(), pytest.raises(CacheError, match=FULL) as caught:
            ask()
        assert caught.value.exit_code == 2
        assert "Free disk space" in str(caught.value.hint)
        assert files(tmp_path) == {}
    assert torch.equal(
        cached_tensors("second_moment", {"of": "x"}, lambda: made)["total"], made["total"]
    )


def test_checkpoints_and_trained_editors(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_FILE

    def write(step: int) -> None:
        weights = {"w": torch.full((3,), float(step))}
        write_checkpoint(path, {"seed": 0}, Progress(step=step), {"network": weights})

    settings, facts = MendSettings(), {"model_fingerprint": "x"}
    write(1)
    save_trained(tmp_path, {"w": torch.ones(3)}, settings, facts)
    before = files(tmp_path)
    with full_disk():
        with pytest.raises(CacheError, match=FULL):
            write(2)
        with pytest.raises(CacheError, match=FULL):
            save_trained(tmp_path, {"w": torch.zeros(3)}, settings, facts)
    assert files(tmp_path) == before
    resumed = read_checkpoint(path, {"seed": 0}, progress=Progress, groups=("network",))
    assert resumed is not None
    assert resumed.progress.step == 1
    assert torch.equal(read_editor_file(tmp_path)[1]["w"], torch.ones(3))
    assert (tmp_path / FILE).is_file()


# ---------------------------------------------------------------- commands


def test_pictures_and_tables_of_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from editkit_benchmarks.atlas.world import load_world

    fact = next(load_world().all_facts())
    prompt = fact.seen[0].format(fact.subject)
    arguments = [
        *("trace", "--model", "atlas", "--subject", fact.subject, "--prompt", prompt),
        *("--set", "kinds=[state]", "--set", "samples=1", "--set", "window=2"),
        *("--answer", fact.object, "--out", str(tmp_path)),
    ]
    with full_disk():
        assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert f": {FULL}." in errors
    assert str(tmp_path) in errors
    assert files(tmp_path) == {}


def test_the_embedded_model_and_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, whole, out = tmp_path / "tokenizer", tmp_path / "whole", tmp_path / "out"
    save_tokenizer(tokenizer)
    config = atlas_training.TrainingConfig(
        steps=4, layers=1, hidden=8, heads=1, rows=2, row_tokens=16
    )

    def train(folder: Path) -> bool:
        return atlas_training.train(folder, tokenizer, config, checkpoint_every=2, quiet=True)

    assert train(whole)
    with full_disk(), pytest.raises(CacheError, match=FULL):
        train(out)
    assert files(out) == {}  # the first checkpoint could not be written
    with monkeypatch.context() as patch, pytest.raises(OSError, match=FULL):
        patch.setattr(atlas_training, "_save", _refused)
        train(out)
    assert list(files(out)) == ["checkpoint.safetensors"]
    assert train(out)
    assert files(out) == files(whole)


def _refused(*_: object) -> None:
    raise OSError(errno.ENOSPC, FULL)


# ---------------------------------------------------------------- SQLite


def rows(first: int, n: int) -> list[Row]:
    return [Row(i, "done", notes={"text": "x" * 2000}) for i in range(first, first + n)]


def test_a_store_keeps_its_rows_and_takes_more_later(tmp_path: Path) -> None:
    with Store(tmp_path / STORE_FILE) as store:
        store.put_cell("cell", {"a": 1})
        store.put_rows("cell", rows(0, 4))
        [(pages,)] = store._connection.execute("PRAGMA page_count").fetchall()
        store._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(StoreError, match="disk is full") as caught:
            store.put_rows("cell", rows(4, 50))
        assert caught.value.exit_code == 4
        assert [row.case_id for row in store.rows("cell")] == [0, 1, 2, 3]  # nothing of the batch
        store._connection.execute("PRAGMA max_page_count = 100000")
        store.put_rows("cell", rows(4, 50))
    with Store(tmp_path / STORE_FILE, read_only=True) as store:
        assert len(store.rows("cell")) == 54


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Inside, the system refuses to make any file longer: a quota, for real."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("size", [0, 4096, 20_000])
def test_a_store_that_cannot_be_created_leaves_nothing(size: int, tmp_path: Path) -> None:
    with files_of_at_most(size), pytest.raises(StoreError) as caught:
        Store(tmp_path / STORE_FILE)
    assert "unexpected" not in str(caught.value)
    assert files(tmp_path) == {}
    with Store(tmp_path / STORE_FILE) as store:
        store.put_cell("cell", {"a": 1})


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_mlflow_names_the_disk_and_works_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    free(monkeypatch, 12 << 10)
    with files_of_at_most(60_000):
        for _ in range(2):  # a run tries again when it ends
            with pytest.raises(TrackingError, match="disk is full") as caught:
                Tracker(uri, experiment="e")
            assert "free some disk space" in str(caught.value.hint)
            assert files(tmp_path) == {}
    assert Tracker(uri, experiment="e").experiment_id


# ---------------------------------------------------------------- a disk that is really full


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or not resized(place, "64k", first=True):
        pytest.skip("file systems cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=False)


def resized(place: Path, size: str, *, first: bool = False) -> bool:
    option = f"size={size}" if first else f"remount,size={size}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", option, "editkit", place], check=False, capture_output=True
    )
    return done.returncode == 0


@pytest.mark.slow
def test_a_store_is_never_moved_into_place_broken(disk: Path) -> None:
    refused = 0
    for size in range(8, 200, 8):
        resized(disk, f"{size}k")
        try:
            with Store(disk / STORE_FILE) as store:
                store.put_cell("cell", {"a": 1})
        except StoreError as error:
            refused += 1
            assert "is full" in str(error)  # noqa: PT017
            assert "damaged" not in str(error)  # noqa: PT017
        resized(disk, "4m")
        with Store(disk / STORE_FILE) as store:
            store.put_cell("cell", {"a": 1})
        for path in disk.iterdir():
            path.unlink()
    assert refused > 3


@pytest.mark.slow
def test_a_run_on_a_disk_that_fills_up_gives_the_same_rows(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run-benchmark", "--editor", "none", "--limit", "60", "--no-mlflow", "--quiet"]
    run += ["--set", "batch=5", "--json"]
    assert main([*run, "--out", str(tmp_path / "whole")]) == 0
    resized(disk, "250k")
    out = ["--out", str(disk)]
    assert main([*run, *out]) == 4
    assert "is full" in capsys.readouterr().err
    resized(disk, "8m")
    assert main([*run, *out]) == 0

    def scores(folder: Path) -> list[Any]:
        with Store(folder / STORE_FILE, read_only=True) as store:
            [cell] = store.cells()
            return [(row.case_id, row.scores, row.details) for row in store.rows(cell)]

    assert len(scores(disk)) == 60
    assert scores(disk) == scores(tmp_path / "whole")
