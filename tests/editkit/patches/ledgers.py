"""A tiny model with patches for ledgers, and crashes at every file operation."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from editkit import Dense, EditRequest, Ledger, LowRank, Patch, Rows, WeightDelta
from editkit.editing.changes import Change
from editkit.patches.content import Origin
from editkit.registry.models import fingerprint_of
from tests.tiny import tiny

MLP = "transformer.h.{}.mlp.c_proj.weight"  # (128, 32)
CITIES = ("Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Quito", "Hanoi", "Dakar", "Minsk")


def save_tiny(folder: Path, **changes: Any) -> Path:
    """A tiny GPT-2 as a folder."""
    model = tiny(**changes)
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def patches_for(folder: Path, n: int = 10) -> list[Patch]:
    """Patches of a tiny GPT-2, of all kinds of changes; most share their weights."""
    fingerprint = fingerprint_of(str(folder))
    return [patch_for(fingerprint, number) for number in range(n)]


def patch_for(fingerprint: str, number: int, *below: WeightDelta, city: str = "") -> Patch:
    """A patch about a city, made on top of others."""
    made_on = (fingerprint, *(delta.digest() for delta in below)) if below else ()
    with torch.random.fork_rng():
        torch.manual_seed(number)
        changes = {MLP.format(number % 2): _change(number % 5)}
    identity = WeightDelta({}, None, "test", {}, "?", made_on=made_on).model_fingerprint
    if below:
        from editkit.models.checksums import chained

        identity = fingerprint
        for delta in below:
            identity = chained(identity, delta.digest())
    delta = WeightDelta(
        changes,
        EditRequest("{} is in the country of", city or CITIES[number % 10], f"Land {number}"),
        "test",
        {},
        identity if below else fingerprint,
        made_on=made_on,
    )
    origin = Origin("tiny", None, "gpt2", "float32", "cpu", "2026-01-02T03:04:05+00:00", 1.0, {})
    return Patch(delta, origin)


def _change(kind: int) -> Change:
    if kind == 3:
        return Rows(torch.randperm(128)[:4], torch.randn(4, 32) / 3, 128)
    if kind == 4:
        return Dense(torch.randn(128, 32) / 9)
    return LowRank(torch.randn(128, 1) / 3, torch.randn(1, 32) / 3)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, and where its links lead."""
    names = [path for path in sorted(folder.rglob("*")) if path.name != ".lock"]
    links = {str(p.relative_to(folder)): bytes(p.readlink()) for p in names if p.is_symlink()}
    files = {str(p.relative_to(folder)): p.read_bytes() for p in names if p.is_file()}
    return {**files, **links}


def served(ledger: Ledger) -> dict[str, bytes]:
    """The files of the served model."""
    return contents(ledger.model)


def copied(ledger: Ledger, target: Path) -> Ledger:
    """A copy of a ledger, with its links and times."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ledger.folder, target, symlinks=True)
    return Ledger(target)


# ---------------------------------------------------------------- crashes


class Killed(BaseException):
    """The process is gone."""


@dataclasses.dataclass
class Breaking:
    """Breaks the operations that write to a folder, from one of them on.

    Attributes:
        folder: The folder.
        first: Number of the first operation that fails, from 1.
        error: What they raise. An OSError is a full disk, where files can still be removed.
        count: How many were tried.
    """

    folder: Path
    first: int
    error: BaseException
    count: int = 0

    @property
    def happened(self) -> bool:
        return self.count >= self.first

    def __call__(self, event: str, args: Sequence[Any]) -> None:
        events = _NEEDING_SPACE if isinstance(self.error, OSError) else _WRITING
        if event not in events or not self._is_inside(event, args):
            return
        self.count += 1
        if self.happened:
            raise self.error

    def _is_inside(self, event: str, args: Sequence[Any]) -> bool:
        if event == "open" and not _writes(args):
            return False
        named = args[:1] if event == "open" else args[:2]
        paths = [os.fspath(arg) for arg in named if isinstance(arg, str | os.PathLike)]
        if any(path.endswith(".lock") for path in paths):
            return False
        return any(not Path(p).is_absolute() or p.startswith(f"{self.folder}/") for p in paths)


_NEEDING_SPACE = {"open", "os.mkdir", "os.symlink", "shutil.copyfile"}
_WRITING = _NEEDING_SPACE | {
    "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree",
}  # fmt: skip
_breaking: list[Breaking] = []


def _writes(args: Sequence[Any]) -> bool:
    path, mode, flags = args
    if not isinstance(path, str | os.PathLike):
        return False
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) or any(c in (mode or "") for c in "wax+")


def _hook(event: str, args: Any) -> None:
    for breaking in _breaking:
        breaking(event, args)


_installed: list[bool] = []


@contextlib.contextmanager
def breaking(folder: Path, first: int, error: BaseException) -> Iterator[Breaking]:
    """Inside, operations that write to the folder fail from the n-th on."""
    if not _installed:
        sys.addaudithook(_hook)  # cannot be removed; it does nothing outside such blocks
        _installed.append(True)
    each = Breaking(folder, first, error)
    _breaking.append(each)
    try:
        yield each
    finally:
        _breaking.remove(each)
