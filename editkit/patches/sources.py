"""The model that a patch is shipped for: its files, whether the patch belongs to it, provenance."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from editkit.editing.deltas import WeightDelta
from editkit.errors import DeltaError, ModelError
from editkit.models.checksums import chained
from editkit.models.fingerprints import legacy_fingerprint
from editkit.models.gguf import is_gguf
from editkit.models.model_files import fingerprint_of_files, refuse_files, whole_folder
from editkit.patches.content import PatchContent
from editkit.registry.models import is_registered, model_folder
from editkit.storage.digests import plain

__all__ = [
    "PROVENANCE",
    "Edits",
    "Source",
    "check_belongs",
    "check_target",
    "contents",
    "described",
    "provenance_text",
    "source_at",
    "source_of",
    "writing_export",
]

PROVENANCE = "editkit.json"
"""The file in an export with the model and the patches that it was made from."""

_SCHEMA = 1

Edits = WeightDelta | PatchContent | Sequence["WeightDelta | PatchContent"]
"""One edit or several, in the order in which they are applied."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The files of a model.

    Attributes:
        name: The model as the user typed it, or the name of its folder.
        files: Its folder or GGUF file.
        folder: The folder with its weights; for a GGUF file, the dequantised ones in the cache.
        fingerprint: Its identity.
        revision: Branch, tag or commit of a hub model.
    """

    name: str
    files: Path
    folder: Path
    fingerprint: str
    revision: str | None = None

    @property
    def is_gguf(self) -> bool:
        """Whether its weights were dequantised."""
        return is_gguf(self.files)


def source_at(files: Path, *, name: str | None = None, revision: str | None = None) -> Source:
    """The model in a folder or a GGUF file.

    Raises:
        ModelError: editkit cannot use the model.
        CacheError: The cache has too little space for the weights of a GGUF file.
    """
    shown = name or files.name or str(files)
    refuse_files(files, shown)
    folder = whole_folder(files, shown)
    return Source(shown, files, folder, fingerprint_of_files(files), revision)


def contents(edits: Edits) -> list[PatchContent]:
    """The edits as patches; a delta is a patch without origin."""
    several = [edits] if isinstance(edits, WeightDelta | PatchContent) else list(edits)
    return [PatchContent(each) if isinstance(each, WeightDelta) else each for each in several]


def source_of(
    patches: Sequence[PatchContent], model: str | None, revision: str | None = None
) -> Source:
    """The model with that name; without one, the model that the patches were made on.

    Args:
        patches: The patches.
        model: A registered name, a folder, a GGUF file, or a hub id; None: from the patches.
        revision: Branch, tag or commit of a hub model.

    Raises:
        DeltaError: No model is given, and the patches do not name theirs, or it is not found.
        ModelError: editkit cannot use the model.
    """
    if model is not None:
        return source_at(model_folder(model, revision=revision), name=model, revision=revision)
    origin = next((patch.origin for patch in patches if patch.origin is not None), None)
    if origin is None:
        raise DeltaError(
            "the patch does not name the model that it was made on.",
            hint="Name the model: model=..., or --model on the command line.",
        )
    try:
        files = model_folder(origin.model, revision=origin.revision)
    except ModelError as error:
        raise DeltaError(
            f"the patch was made on {origin.model!r}, which is not found here: {error.message}",
            hint="Name the model, or its folder: model=..., or --model on the command line.",
        ) from error
    return source_at(files, name=origin.model, revision=origin.revision)


def check_belongs(source: Source, patches: Sequence[PatchContent], *, force: bool = False) -> None:
    """Refuse patches that the weights of a model cannot carry, or that were made for another.

    Args:
        source: The model.
        patches: The patches, in order; one may have been made on top of those before it.
        force: Accept patches of other models.

    Raises:
        DeltaError: A patch puts texts before prompts, is not finite, or was made for another model
            or on top of patches that do not precede it.
    """
    identities = [source.fingerprint]
    legacy: str | None = None
    for patch in patches:
        delta = patch.delta
        if delta.context is not None:
            raise DeltaError(
                f"{_title(patch)} puts texts before prompts, which weights cannot carry.",
                hint="Export an edit of weights: rome, memit, ft, ... The answers of this one need "
                "EditedModels.",
            )
        if not delta.is_finite():
            raise DeltaError(
                f"{_title(patch)} has numbers that are not finite.",
                hint="Make it again; its notes may give the reason: patch.delta.notes.",
            )
        if not force and delta.model_fingerprint not in identities:
            if legacy is None:
                legacy = "" if source.is_gguf else legacy_fingerprint(source.folder)
            if delta.model_fingerprint != legacy:
                raise _made_elsewhere(source, patch)
        identities.append(chained(identities[-1], delta.digest()))


def _made_elsewhere(source: Source, patch: PatchContent) -> DeltaError:
    made_on = patch.delta.made_on
    if made_on and made_on[0] == source.fingerprint:
        below = ", ".join(digest[:12] for digest in made_on[1:])
        n = len(made_on) - 1
        return DeltaError(
            f"{_title(patch)} was made on {source.name} with {n} other "
            f"edit{'s' if n > 1 else ''} applied ({below}, in this order).",
            hint="Give those first, in that order; 'editkit patch show' prints their digests.",
        )
    origin = patch.origin
    model = "another model" if origin is None else origin.model
    if origin is not None and origin.revision:
        model += f" at revision {origin.revision}"
    return DeltaError(
        f"{_title(patch)} was made on {model} ({patch.delta.model_fingerprint[:12]}), but "
        f"{source.name} is {source.fingerprint[:12]}.",
        hint="Give the model that it was made on, or force it if you know that it fits.",
    )


def check_target(source: Source, target: Path) -> None:
    """Refuse to write an export into the model's own folder or over existing files.

    Raises:
        DeltaError: The target is one of these.
    """
    own, new = source.folder.resolve(), target.resolve()
    if new == own or own in new.parents:
        raise DeltaError(
            f"the folder {str(target)!r} is inside the model's own folder.",
            hint="Choose a folder outside: the original stays as it is.",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        what = "is not empty" if target.is_dir() else "is a file"
        raise DeltaError(
            f"{str(target)!r} exists and {what}.",
            hint="Choose a new folder, or remove it first: an export replaces nothing.",
        )


@contextlib.contextmanager
def writing_export(target: Path) -> Iterator[None]:
    """Inside, an :class:`OSError` becomes a :class:`DeltaError` about the export."""
    try:
        yield
    except OSError as error:
        raise DeltaError(
            f"the patch cannot be exported as {str(target)!r}: {error}.",
            hint="Choose a new folder on a disk with enough space, where you may write.",
        ) from error


def _title(patch: PatchContent) -> str:
    """A patch for messages: ``the rome patch of 'Space Needle'``."""
    subjects = list(dict.fromkeys(request.subject for request in patch.requests))
    if not subjects:
        return f"the {patch.editor} patch"
    more = f" and {len(subjects) - 1} more" if len(subjects) > 1 else ""
    return f"the {patch.editor} patch of {subjects[0]!r}{more}"


def described(source: Source, patches: Sequence[PatchContent]) -> dict[str, Any]:
    """Where an export comes from, as plain data."""
    return {
        "schema": _SCHEMA,
        "model": {
            "name": _public_name(source),
            "revision": source.revision,
            "fingerprint": source.fingerprint,
            "dequantised": source.is_gguf,
        },
        "patches": [
            {
                "requests": [request.to_dict() for request in patch.requests],
                "editor": patch.editor,
                "config": plain(patch.delta.config),
                "digest": patch.delta.digest(),
                "made_on": patch.delta.model_fingerprint,
                "parameters": list(patch.delta.changes),
                "origin": None if patch.origin is None else patch.origin.to_dict(),
            }
            for patch in patches
        ],
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": _versions(),
    }


def _public_name(source: Source) -> str:
    """A registered name, a hub id, or the name of a folder or file without its place."""
    path = Path(source.name)
    return path.resolve().name if path.exists() and not is_registered(source.name) else source.name


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("editkit", "torch", "transformers", "safetensors"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def provenance_text(document: Mapping[str, Any]) -> str:
    """The content of :data:`PROVENANCE`."""
    return json.dumps(plain(document), indent=2, ensure_ascii=False) + "\n"
