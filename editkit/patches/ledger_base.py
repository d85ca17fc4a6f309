"""The unedited model of a ledger: recorded file by file when the ledger is made, checked later."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from editkit.errors import EditkitError, LedgerError
from editkit.models.fingerprints import legacy_fingerprint
from editkit.models.gguf import is_gguf
from editkit.models.model_files import fingerprint_of_files, refuse_files, whole_folder
from editkit.models.placement import placement_of
from editkit.models.rewriting import FolderContent, content_of, copy_model
from editkit.models.weight_layout import as_stored
from editkit.patches.content import PatchContent
from editkit.patches.export import PROVENANCE, write_folder
from editkit.patches.file_records import differences, record_of
from editkit.patches.ledger_state import BaseModel
from editkit.progress import counting
from editkit.registry.models import is_registered, local_folder, model_folder

__all__ = ["base_model", "can_hold", "copy_base", "folder_of", "is_same_model", "write_model"]

_OF_THE_CACHE = Path("weights.json")  # next to dequantised weights
_CHANGING = ("created", "versions")  # entries of the provenance


def base_model(name: str, revision: str | None = None) -> BaseModel:
    """Find a model, and record its files.

    Args:
        name: A registered name, a folder, a GGUF file, or a hub id.
        revision: Branch, tag or commit of a hub model.

    Raises:
        ModelError: The model cannot be found or used.
    """
    files = model_folder(name, revision=revision)
    refuse_files(files, name)
    folder = whole_folder(files, name)
    content = _content(folder)
    records = {}
    paths = (*content.weights, *content.others)
    with counting(f"reading {name}", len(paths), unit="file") as advance:
        for path in paths:
            records[path.as_posix()] = record_of(folder / path)
            advance()
    own = not is_registered(name) and local_folder(name) is not None
    return BaseModel(
        name=str(Path(name).absolute()) if own else name,
        revision=revision,
        path=str(files.absolute()),
        fingerprint=fingerprint_of_files(files),
        legacy="" if is_gguf(files) else legacy_fingerprint(folder),
        copied=is_gguf(files),
        files=records,
    )


def _content(folder: Path) -> FolderContent:
    content = content_of(folder)
    others = tuple(path for path in content.others if path != _OF_THE_CACHE)
    return dataclasses.replace(content, others=others)


def copy_base(base: BaseModel, target: Path) -> None:
    """Copy the files of a base model that has just been recorded."""
    folder = whole_folder(Path(base.path), base.name)
    target.mkdir()
    copy_model(folder, _content(folder), target, {})


def is_same_model(base: BaseModel, name: str, revision: str | None) -> Path | None:
    """The files of a model if it is the base model, wherever they are; None if it is another.

    Raises:
        ModelError: The model cannot be found.
    """
    files = model_folder(name, revision=revision)
    return files if fingerprint_of_files(files) == base.fingerprint else None


def folder_of(base: BaseModel, copy: Path) -> Path:
    """The folder with the base model's files, unchanged since they were recorded.

    Args:
        base: The base model.
        copy: Where the ledger's own copy is, if it has one.

    Raises:
        LedgerError: The folder does not exist any more, or files have changed.
    """
    folder = copy if base.copied else Path(base.path)
    if not folder.is_dir() and not base.copied:
        try:
            folder = model_folder(base.name, revision=base.revision)
        except EditkitError:
            folder = Path(base.path)
    if not folder.is_dir():
        raise LedgerError(
            f"the base model {base} is not in {str(folder)!r} any more.",
            hint="Put it back, or give its new place once with --model (Ledger(DIR, model=...)).",
        )
    if problems := differences(folder, base.files, more=False):
        raise LedgerError(
            f"the base model {base} has changed since the ledger was made: {_some(problems)}.",
            hint="Restore its original files. To work on the changed model, make a new ledger.",
        )
    return folder


def can_hold(base: BaseModel, copy: Path, patches: Sequence[PatchContent]) -> bool:
    """Whether a base model has every weight that patches change, in the same shape.

    Args:
        base: The base model.
        copy: Where the ledger's own copy is, if it has one.
        patches: The patches, perhaps of other models.
    """
    try:
        folder = copy if copy.is_dir() else whole_folder(Path(base.path), base.name)
        placement = placement_of(folder, base.name)
    except EditkitError:
        return False
    for patch in patches:
        for name, change in patch.delta.changes.items():
            if name in placement.built:
                return False
            try:
                weight = placement.model.get_parameter(name)
            except AttributeError:
                return False
            module = placement.model.get_submodule(name.rpartition(".")[0])
            stored = as_stored(module, torch.empty(change.shape, device="meta"))
            if stored.shape != weight.shape:
                return False
    return True


def write_model(
    base: BaseModel, folder: Path, patches: Sequence[PatchContent], target: Path
) -> None:
    """Write the base model with patches; equal arguments give equal bytes.

    Args:
        base: The base model.
        folder: Its folder.
        patches: The patches, in the order in which their changes are summed.
        target: The new folder; it must not exist.

    Raises:
        EditkitError: As for :func:`editkit.patches.export.write_folder`.
        LedgerError: The base model changed meanwhile.
    """
    if patches:
        with _one_thread():
            write_folder(
                folder, patches, target, name=base.name, revision=base.revision, force=True
            )
        _keep_what_is_constant(base, target / PROVENANCE)
    else:
        target.mkdir()
        copy_model(folder, _content(folder), target, {})
    kept = {*base.files, *([PROVENANCE] if patches else [])}
    for path in sorted(target.rglob("*")):
        if path.is_file() and path.relative_to(target).as_posix() not in kept:
            path.unlink()  # a file that was added to the base model's folder later
    weights = {path.as_posix() for path in content_of(folder).weights}
    same = {
        name: record
        for name, record in base.files.items()
        if not patches or name not in {*weights, PROVENANCE}
    }
    problems = differences(target, same, more=False)
    problems += [f"{target / name} is missing" for name in kept if not (target / name).is_file()]
    if problems:
        raise LedgerError(
            f"the base model {base} changed while it was copied: {_some(problems)}.",
            hint="Restore its original files, and run the command again.",
        )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Inside, torch uses one thread: sums do not depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _keep_what_is_constant(base: BaseModel, path: Path) -> None:
    """Drop from the provenance what depends on when and where it was written."""
    provenance = json.loads(path.read_text(encoding="utf-8"))
    for entry in _CHANGING:
        provenance.pop(entry, None)
    for tensor in provenance["result"]["tensors"]:
        tensor.pop("rounding", None)  # a sum: its last digits depend on the number of threads
    name = Path(base.name).name if Path(base.name).is_absolute() else base.name
    model = {
        "name": name,  # also if the model is not there any more
        "revision": base.revision,
        "fingerprint": base.fingerprint,
        "dequantised": base.copied,
    }
    text = json.dumps({**provenance, "model": model}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _some(problems: Sequence[str]) -> str:
    rest = f" (and {len(problems) - 2} more)" if len(problems) > 2 else ""
    return "; ".join(problems[:2]) + rest
