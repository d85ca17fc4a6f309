"""Whatever changes the files of a ledger or of its base model is named, and rebuilt if possible."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from editkit import Ledger, LedgerError, Patch
from tests.editkit.patches.ledgers import contents, served


def _append(path: Path, content: bytes = b" ") -> None:
    with path.open("ab") as stream:
        stream.write(content)


def _flip(path: Path) -> None:
    """Change a byte, but neither size nor time."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _replace_link_by_folder(ledger: Ledger) -> None:
    folder = ledger.model
    ledger.link.unlink()
    shutil.copytree(folder, ledger.link)


def _point_elsewhere(ledger: Ledger) -> None:
    ledger.link.unlink()
    ledger.link.symlink_to(ledger.folder.parent)


DAMAGE: dict[str, tuple[Callable[[Ledger], object], str, bool]] = {
    "weights": (lambda ledger: _append(ledger.model / "model.safetensors"), "has changed", True),
    "config": (lambda ledger: (ledger.model / "config.json").unlink(), "is missing", True),
    "new file": (lambda ledger: _append(ledger.model / "more.bin"), "is new", True),
    "link gone": (lambda ledger: ledger.link.unlink(), "has no model folder", True),
    "version gone": (lambda ledger: shutil.rmtree(ledger.model), "is missing", True),
    "record gone": (
        lambda ledger: ledger.model.with_name(f"{ledger.model.name}.json").unlink(),
        r"\.json is damaged: it is missing",
        True,
    ),
    "log extended": (
        lambda ledger: _append(ledger.folder / "log.jsonl", b'{"time": "", "by": "Eve", '
        b'"action": "rebuild", "version": "0003-000000000000"}\n'),
        "is not the log that editkit wrote",
        True,
    ),
    "link to folder": (_replace_link_by_folder, "is not a link to a version", False),
    "link elsewhere": (_point_elsewhere, "which is not a version of the ledger", False),
    "log cut": (
        lambda ledger: (ledger.folder / "log.jsonl").write_bytes(
            b"".join((ledger.folder / "log.jsonl").read_bytes().splitlines(keepends=True)[:2])
        ),
        "is not the log that editkit wrote|does not list the patches",
        False,
    ),
    "log garbled": (lambda ledger: _append(ledger.folder / "log.jsonl", b"?"), "damaged", False),
    "ledger.json": (lambda ledger: _append(ledger.folder / "ledger.json", b"?"), "damaged", False),
    "newer format": (
        lambda ledger: (ledger.folder / "ledger.json").write_text(
            (ledger.folder / "ledger.json").read_text().replace('"format": 1', '"format": 2')
        ),
        "has format 2",
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_by_every_action_and_rebuilt_where_possible(
    ledger: Ledger, patches: list[Patch], case: str
) -> None:
    damage, message, repairable = DAMAGE[case]
    before = served(ledger)
    damage(ledger)
    actions: list[Callable[[], object]] = [
        lambda: ledger.model,
        lambda: ledger.apply(patches[4]),
        lambda: ledger.revert(1),
    ]
    for action in actions:
        with pytest.raises(LedgerError, match=message):
            action()
    assert ledger.check() != []
    if repairable:
        [problem] = ledger.rebuild(by="Cid")
        assert served(ledger) == before
        assert ledger.check() == []
        assert ledger.log()[-1].repaired == (problem,)
        assert ledger.rebuild() == []
        ledger.revert(1)
    else:
        with pytest.raises(LedgerError, match=message):
            ledger.rebuild()


def test_a_removed_link_that_was_a_folder_is_rebuilt(ledger: Ledger) -> None:
    before = served(ledger)
    _replace_link_by_folder(ledger)
    shutil.rmtree(ledger.link)
    ledger.rebuild()
    assert served(ledger) == before


def test_a_changed_copy_of_a_patch_is_named(ledger: Ledger, patches: list[Patch]) -> None:
    [path] = (ledger.folder / "patches").glob("0001-*")
    content = path.read_bytes()
    _flip(path)
    for action in (lambda: ledger.apply(patches[4]), lambda: ledger.revert(2), ledger.rebuild):
        if action == ledger.rebuild:
            (ledger.model / "config.json").unlink()
        with pytest.raises(LedgerError, match=r"0001-.*copy of patch 1 \(.*has changed since"):
            action()
    assert any("copy of patch 1" in problem for problem in ledger.check())
    path.write_bytes(content)
    ledger.rebuild()
    ledger.revert(1)
    path.unlink()
    assert any("cannot be read" in problem for problem in ledger.check())
    ledger.revert(2)  # a reverted patch is not needed


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_changed_base_model_is_named(
    base: Path, patches: list[Patch], tmp_path: Path, name: str
) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    ledger = Ledger.create(tmp_path / "ledger", own, patches[0])
    before = contents(ledger.folder)
    _append(own / name)
    for action in (lambda: ledger.apply(patches[1]), lambda: ledger.revert(1)):
        with pytest.raises(LedgerError, match=f"has changed since the ledger was made: .*{name}"):
            action()
    assert contents(ledger.folder) == before
    (own / name).unlink()
    with pytest.raises(LedgerError, match=f"{name} is missing"):
        ledger.revert(1)


def test_the_check_reads_what_times_do_not_show(ledger: Ledger) -> None:
    _flip(ledger.model / "model.safetensors")
    assert ledger.model.is_dir()
    assert ledger.check() == [f"{ledger.model / 'model.safetensors'} has changed"]
