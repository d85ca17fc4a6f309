"""Shipping patches as a model folder that needs no editkit: :func:`write_folder`.

The folder is the model's own, file by file, with the changed tensors rewritten: stored value in
float32, plus the sum of the changes, rounded once to the stored type. That is what
:func:`editkit.applied` computes on a model that is loaded in that type, and the result is checked
against it. The model is not loaded: at most one tensor and its change are in memory.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from editkit.editing.changes import Change, moved, summed
from editkit.errors import DeltaError
from editkit.models.fingerprints import fingerprint_of_folder
from editkit.models.placement import Placement, placement_of
from editkit.models.rewriting import content_of, copy_model, differences
from editkit.models.weight_layout import as_stored
from editkit.patches.combining import check_combinable
from editkit.patches.content import PatchContent
from editkit.patches.lora import LoraExport, export_lora
from editkit.patches.sources import (
    PROVENANCE,
    Edits,
    Source,
    check_belongs,
    check_target,
    contents,
    described,
    provenance_text,
    source_at,
    source_of,
    writing_export,
)
from editkit.storage.new_folder import new_folder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "PROVENANCE",
    "FolderExport",
    "Format",
    "export_folder",
    "export_patches",
    "write_folder",
]

Format = Literal["folder", "lora"]

_SPARE = 64 << 20  # bytes that stay free on the disk
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class WrittenTensor:
    """A tensor that an export changed.

    Attributes:
        name: In the folder's weight files.
        parameter: In the loaded model.
        dtype: Type in the file: ``bfloat16``.
        rounding: Norm of what rounding to that type took from the change or added to it, relative
            to the change's norm; 1 or more means that the edit is lost.
    """

    name: str
    parameter: str
    dtype: str
    rounding: float


@dataclasses.dataclass(frozen=True)
class FolderExport:
    """A folder that was written.

    Attributes:
        folder: The folder.
        model: Name of the model that was edited.
        fingerprint: Identity of the edited model, which :func:`editkit.load_model` computes too.
        tensors: The changed tensors.
        left_out: Files and folders of the model that were not copied, since they hold weights
            without the edit.
        dequantised: Whether the weights were dequantised from a GGUF file.
    """

    folder: Path
    model: str
    fingerprint: str
    tensors: tuple[WrittenTensor, ...] = dataclasses.field(repr=False)
    left_out: tuple[str, ...]
    dequantised: bool

    def to_dict(self) -> dict[str, Any]:
        """The export as plain data."""
        tensors = [vars(tensor) for tensor in self.tensors]
        return {
            "format": "folder",
            **vars(self),
            "folder": str(self.folder),
            "tensors": tensors,
            "left_out": list(self.left_out),
        }

    def lines(self) -> list[str]:
        """What was written, in sentences."""
        n = len(self.tensors)
        types = " and ".join(sorted({tensor.dtype for tensor in self.tensors}))
        changed = f"{n} weight{'' if n == 1 else 's'} changed" + (f" ({types})" if n else "")
        lines = [f"{self.folder}: {self.model} with the edit, {changed}"]
        if self.dequantised:
            lines.append("The weights are those of the GGUF file, dequantised to float32.")
        if self.left_out:
            lines.append(
                f"Not copied, since they hold weights without the edit: {', '.join(self.left_out)}"
            )
        return lines

    def snippet(self) -> str:
        """Two lines of Python that load the folder without editkit."""
        return (
            "from transformers import AutoModelForCausalLM\n"
            f"model = AutoModelForCausalLM.from_pretrained({str(self.folder)!r})"
        )


def export_patches(
    patches: Edits,
    out: str | Path,
    *,
    model: str | None = None,
    format: Format = "folder",
    dtype: str | None = None,
    force: bool = False,
    names: Sequence[str] | None = None,
) -> FolderExport | LoraExport:
    """Write patches as a model folder or as a LoRA adapter.

    Args:
        patches: One or several, in order.
        out: The new folder; it must not exist, or be empty.
        model: A registered name, a folder, a GGUF file, or a hub id; None: the model that the
            patches were made on.
        format: ``folder`` (:func:`export_folder`) or ``lora``
            (:func:`~editkit.patches.lora.export_lora`).
        dtype: ``float32`` widens the weights of a folder; None: types stay as they are.
        force: Accept a patch of another model, the same patch twice, and two for one fact.
        names: What errors call the patches, such as their files.

    Raises:
        EditkitError: The format or the dtype is another one; otherwise as for the function of the
            format.
    """
    if format == "folder":
        return export_folder(patches, model, out, dtype=dtype, force=force, names=names)
    if format != "lora":
        raise DeltaError(f"the format of an export is {format!r}.", hint="Use folder or lora.")
    if dtype is not None:
        raise DeltaError(
            f"dtype {dtype!r} is given for an adapter, which is always float32.",
            hint="Leave dtype out, or export a folder.",
        )
    return export_lora(patches, model, out, force=force, names=names)


def export_folder(
    patches: Edits,
    model: str | None,
    out: str | Path,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    force: bool = False,
    names: Sequence[str] | None = None,
) -> FolderExport:
    """:func:`write_folder` for a model by name, without patches that conflict.

    Args:
        patches: One or several, in order.
        model: A registered name, a folder, a GGUF file, or a hub id; None: the model that the
            patches were made on.
        out: The new folder.
        revision: Branch, tag or commit of a hub model.
        dtype: As for :func:`write_folder`.
        force: Accept a patch of another model, the same patch twice, and two for one fact.
        names: What errors call the patches, such as their files.

    Raises:
        EditkitError: As for :func:`write_folder`; or two patches conflict, or the model is unknown.
    """
    edits = contents(patches)
    source = source_of(edits, model, revision)
    check_combinable(edits, force=force, names=names)
    return _write(source, edits, Path(out), dtype, force=force)


def write_folder(
    source: Path,
    edits: Edits,
    target: Path,
    *,
    dtype: str | None = None,
    name: str | None = None,
    revision: str | None = None,
    force: bool = False,
) -> FolderExport:
    """Write a model with edits as a folder that transformers loads.

    Names, types, order and sharding of the tensors, config, tokenizer, generation config, chat
    template, custom files and licence stay as they are; ``editkit.json`` is added. The folder
    appears at the end, whole; the source is only read.

    Args:
        source: The model's folder or GGUF file.
        edits: Deltas or patches, in order; an empty list copies the model.
        target: The new folder; it must not exist, or be empty.
        dtype: ``float32`` to store bfloat16 and float16 weights as float32; None: as they are.
        name: The model's name in messages and in ``editkit.json``; None: that of its folder.
        revision: Branch, tag or commit of a hub model, for ``editkit.json``.
        force: Accept edits that were made for another model.

    Raises:
        DeltaError: An edit does not belong to the model, changes a parameter without a counterpart
            in its files, or would not be finite in its type; or the target cannot be written.
        ModelError: The model cannot be read.
        CacheError: The cache has too little space for the weights of a GGUF file.
    """
    model = source_at(source, name=name, revision=revision)
    return _write(model, contents(edits), target, dtype, force=force)


def _write(
    model: Source,
    patches: Sequence[PatchContent],
    target: Path,
    dtype: str | None,
    *,
    force: bool,
) -> FolderExport:
    if dtype not in (None, "float32"):
        raise DeltaError(
            f"the dtype of an export is {dtype!r}, expected float32.",
            hint="Leave it out to keep the stored types; float32 widens bfloat16 and float16.",
        )
    check_target(model, target)
    check_belongs(model, patches, force=force)
    content = content_of(model.folder)
    if model.is_gguf:  # the folder in the cache has a file of its own
        content = dataclasses.replace(content, others=_without(content.others, "weights.json"))
    new = _new_values(model, patches)
    widen = dtype is not None
    _check_space(content.size(model.folder) * (2 if widen else 1), target)
    with writing_export(target), new_folder(target) as folder:
        digests = copy_model(model.folder, content, folder, new, widen=widen)
        wrong = differences(model.folder, folder, content, digests, widen=widen)
        if problem := next(wrong, None):
            raise OSError(f"the weights on the disk are wrong: {problem}")
        tensors = tuple(value.written(name) for name, value in new.items())
        fingerprint = fingerprint_of_folder(folder)
        left_out = tuple(str(path) for path in content.left_out)
        result = {
            "format": "folder",
            "fingerprint": fingerprint,
            "dtype": dtype,
            "tensors": [vars(tensor) for tensor in tensors],
            "left_out": list(left_out),
        }
        document = {**described(model, patches), "result": result}
        document["earlier"] = _earlier(model.folder)
        (folder / PROVENANCE).write_text(provenance_text(document), encoding="utf-8")
    for tensor in tensors:
        if tensor.rounding > _LOST:
            _log.warning(
                "rounding to %s changes the edit of %s by %.0f%% of its size; dtype float32 keeps "
                "it whole",
                tensor.dtype,
                tensor.name,
                100 * tensor.rounding,
            )
    return FolderExport(
        target, model.name, fingerprint, tensors, left_out, dequantised=model.is_gguf
    )


_LOST = 0.25  # of a change's norm: an edit that loses more may not work


def _without(paths: Sequence[Path], name: str) -> tuple[Path, ...]:
    return tuple(path for path in paths if path != Path(name))


def _earlier(folder: Path) -> Any:
    """The provenance of a source that is an export itself."""
    try:
        return json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


# ---------------------------------------------------------------- checks


def _check_space(need: int, target: Path) -> None:
    existing = target.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if need + _SPARE > free:
        raise DeltaError(
            f"the exported model needs {need >> 20:,} MiB, and {free >> 20:,} MiB are free in "
            f"{str(existing)!r}.",
            hint="Free disk space, or choose a folder on another disk.",
        )


# ---------------------------------------------------------------- values


@dataclasses.dataclass(eq=False)
class _NewValue:
    """Computes the new value of one stored tensor.

    Attributes:
        parameter: Its name in the model.
        parts: For each name of the parameter, the module that has it and all changes under that
            name, in order.
        dtype: Type of the written tensor.
        rounding: As in :class:`WrittenTensor`, of the last call.
    """

    parameter: str
    parts: Sequence[tuple[Any, str, list[Change]]]
    dtype: str = ""
    rounding: float = 0.0

    def __call__(self, stored: Tensor) -> Tensor:
        """The stored values plus all changes, rounded once.

        Raises:
            DeltaError: The sum overflows the stored type.
        """
        import torch

        update: Tensor | None = None
        for module, name, changes in self.parts:
            dense = summed(name, changes).dense().to(torch.float32)
            part = as_stored(module, dense)
            update = part if update is None else update + part
        if update is None:
            raise AssertionError(f"{self.parameter} has no change")
        wide = stored.to(torch.promote_types(stored.dtype, torch.float32))
        value = (wide + update).to(stored.dtype)
        self.dtype = str(stored.dtype).removeprefix("torch.")
        if not bool(torch.isfinite(value).all()):
            raise DeltaError(
                f"the edited {self.parameter} overflows {self.dtype}.",
                hint="Export with dtype float32.",
            )
        size = float(update.norm())
        self.rounding = float((value - wide - update).norm()) / size if size else 0.0
        return value

    def written(self, name: str) -> WrittenTensor:
        return WrittenTensor(name, self.parameter, self.dtype, self.rounding)


def _new_values(source: Source, patches: Sequence[PatchContent]) -> dict[str, _NewValue]:
    """How to compute every stored tensor that the patches change."""
    import torch

    by_name: dict[str, list[Change]] = {}
    for patch in patches:
        for name, change in patch.delta.changes.items():
            by_name.setdefault(name, []).append(moved(change, torch.device("cpu")))
    if not by_name:
        return {}
    placement = placement_of(source.folder, source.name)
    for name, changes in by_name.items():
        _check_shape(source, placement, name, changes)
    new: dict[str, _NewValue] = {}
    done: set[str] = set()
    for name in by_name:
        if name in done:
            continue
        names, stored = _stored_under(source, placement, name)
        done |= names
        parts = [
            (placement.model.get_submodule(each.rpartition(".")[0]), each, changes)
            for each, changes in by_name.items()
            if each in names
        ]
        new |= {tensor: _NewValue(parameter, parts) for parameter, tensor in stored.items()}
    return new


def _stored_under(
    source: Source, placement: Placement, name: str
) -> tuple[frozenset[str], Mapping[str, str]]:
    """The names of a parameter that one change moves together, and the tensors that store it."""
    names = placement.names_of_weight(name, source.folder)
    stored = {each: placement.stored[each] for each in sorted(names) if each in placement.stored}
    if not stored:
        raise DeltaError(
            f"the parameter {name} has no counterpart in the files of {source.name}.",
            hint="Check that the patch was made on these files.",
        )
    return names, stored


def _check_shape(
    source: Source, placement: Placement, name: str, changes: Sequence[Change]
) -> None:
    import torch

    if name in placement.built:
        raise DeltaError(
            f"{name} has no tensor of its own in the files of {source.name}: transformers computes "
            "it from several stored tensors.",
            hint="Export the edited model from memory: inside 'with patch.applied(model)', call "
            "model.hf.save_pretrained(FOLDER) and model.tokenizer.save_pretrained(FOLDER).",
        )
    try:
        weight: torch.Tensor = placement.model.get_parameter(name)
    except AttributeError:
        raise DeltaError(
            f"{source.name} has no parameter {name!r}.",
            hint="Check that the patch was made for this architecture.",
        ) from None
    module = placement.model.get_submodule(name.rpartition(".")[0])
    for change in changes:
        shape = tuple(as_stored(module, torch.empty(change.shape, device="meta")).shape)
        if shape != tuple(weight.shape):
            raise DeltaError(
                f"the change of {name} has the shape {change.shape} (in, out), which does not fit "
                f"the weight of shape {tuple(weight.shape)} in {source.name}.",
                hint="Check that the patch was made for a model of this size.",
            )
