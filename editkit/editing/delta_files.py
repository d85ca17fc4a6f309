"""Delta files: each delta is one self-contained safetensors file.

The header holds the description as JSON and a digest of the description and the tensors. Deltas
with a context of prompts have format 2, all others format 1, which earlier versions can read.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from editkit.data_types import EditRequest
from editkit.editing.deltas import Change, Dense, LowRank, PromptContext, Rows, WeightDelta
from editkit.errors import DeltaError, EditkitError
from editkit.mistakes import expect, expect_path
from editkit.storage.cache import read_safetensors, write_atomically
from editkit.storage.digests import digest_of_tensors
from editkit.storage.strict_json import parse_json

__all__ = ["load_delta", "read_delta_file", "save_delta", "write_delta_file"]

_WRITERS = "'editkit edit --save FILE', Patch.save and save_delta write such files."
_FORMAT, _FORMAT_WITH_CONTEXT = 1, 2
_LARGEST = 2**32  # entries of one weight: more than any model has
_TYPES: Mapping[str, type] = {
    "changes": dict,
    "requests": list,
    "joint": bool,
    "editor": str,
    "config": dict,
    "model_fingerprint": str,
    "notes": dict,
    "made_on": list,
}
_WORDS = {dict: "a mapping", list: "a list", bool: "true or false", str: "a text"}
_OPTIONAL = {"made_on"}
_REQUIRED = _TYPES.keys() - _OPTIONAL | {"format"}
_CONTEXT = {field.name for field in dataclasses.fields(PromptContext)}
_KINDS: Mapping[str, type[Change]] = {"low_rank": LowRank, "rows": Rows, "dense": Dense}


def save_delta(delta: WeightDelta, path: str | Path) -> None:
    """Write a delta as a safetensors file, atomically.

    Raises:
        DeltaError: The file cannot be written, or config or notes are not plain data.
    """
    expect(delta, "WeightDelta", "delta", "save_delta(delta, path)")
    expect_path(path, "path", "save_delta(delta, path)")
    write_delta_file(delta, path, {})


def write_delta_file(delta: WeightDelta, path: str | Path, more: Mapping[str, str]) -> None:
    """As :func:`save_delta`, with further entries of the header, which :func:`load_delta` ignores.

    Args:
        delta: The delta.
        path: The file.
        more: Further entries by name; neither ``editkit`` nor ``digest``.

    Raises:
        DeltaError: As for :func:`save_delta`.
    """
    kinds = {kind: name for name, kind in _KINDS.items()}
    tensors: dict[str, Tensor] = {}
    changes: dict[str, dict[str, Any]] = {}
    for name, change in delta.changes.items():
        changes[name] = {"kind": kinds[type(change)]}
        if isinstance(change, Rows):
            changes[name]["n_rows"] = change.n_rows
        for field, tensor in change.tensors().items():
            tensors[f"{name}/{field}"] = tensor.detach().cpu().contiguous()
    described = {
        "format": _FORMAT,
        "changes": changes,
        "requests": [request.to_dict() for request in delta.requests],
        "joint": isinstance(delta.request, tuple),
        "editor": delta.editor,
        "config": dict(delta.config),
        "model_fingerprint": delta.model_fingerprint,
        "notes": dict(delta.notes),
        "made_on": list(delta.made_on),
    }
    if delta.context is not None:
        described |= {"format": _FORMAT_WITH_CONTEXT, "context": delta.context.to_dict()}
    path = Path(path)
    try:
        description = json.dumps(described, sort_keys=True)
        parse_json(description, allow_nan=True)  # never write a file that cannot be loaded
        metadata = {"editkit": description, "digest": digest_of_tensors(tensors, description)}
        metadata |= more
        write_atomically(path, save(tensors, metadata=metadata))
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise DeltaError(
            f"the edit cannot be saved as {str(path)!r}: {error}.",
            hint="Check the path and the disk's space; config and notes must be plain data.",
        ) from error


def load_delta(path: str | Path) -> WeightDelta:
    """Read a delta that :func:`save_delta` wrote.

    Raises:
        DeltaError: The file is missing or damaged, is not a delta, or is from a newer version.
    """
    expect_path(path, "path", "load_delta(path)")
    return read_delta_file(path)[0]


def read_delta_file(path: str | Path) -> tuple[WeightDelta, dict[str, str]]:
    """A delta, and all entries of its file's header.

    Raises:
        DeltaError: As for :func:`load_delta`.
    """
    path = Path(path)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError:  # the path itself may be invalid
        is_folder = is_file = False
    if is_folder:
        raise DeltaError(
            f"{str(path)!r} is a folder, expected a patch file.",
            hint="Give the path of one file in it; " + _WRITERS,
        )
    if not is_file:
        raise DeltaError(
            f"{str(path)[:200]!r} does not exist, or is not a file.", hint="Check its path."
        )
    try:
        metadata, tensors = read_safetensors(path)
        digest = digest_of_tensors(tensors, metadata.get("editkit", ""))
    except OSError as error:
        raise DeltaError(
            f"{path} cannot be read: {error.strerror or error}.",
            hint="Check the file, its owner and its permissions.",
        ) from error
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise DeltaError(
            f"{path} is damaged, or is not a safetensors file.",
            hint="Copy the file again from its source, or give another one: " + _WRITERS,
        ) from error
    if "editkit" not in metadata:
        raise DeltaError(
            f"{path} holds tensors, but not an edit of editkit.",
            hint="Give a patch file: " + _WRITERS,
        )
    if metadata.get("digest") != digest:
        raise _damaged(path, "its content does not match its digest")
    try:
        return _delta(parse_json(metadata["editkit"], allow_nan=True), tensors), metadata
    except _NewerError as error:
        raise DeltaError(f"{path} {error}.", hint="Install a newer editkit.") from None
    except EditkitError as error:
        raise _damaged(path, error.message.rstrip(".")) from None
    except ValueError as error:
        raise _damaged(path, str(error)) from None


class _NewerError(ValueError):
    """The file has a format or a key that this version does not know."""


def _damaged(path: Path, problem: str) -> DeltaError:
    return DeltaError(f"{path} is damaged: {problem}.", hint="Copy the file again from its source.")


# ---------------------------------------------------------------- from plain data


def _delta(data: Any, tensors: Mapping[str, Tensor]) -> WeightDelta:
    """Build the delta from its description and tensors.

    Raises:
        ValueError, EditkitError: They do not describe a delta.
    """
    _check(isinstance(data, dict), "its description is not a mapping")
    number = data.get("format")
    _check(type(number) is int and number > 0, f"format is {number!r:.40}, expected a number")
    if number > _FORMAT_WITH_CONTEXT:
        raise _NewerError(f"has format {number}, this version reads up to {_FORMAT_WITH_CONTEXT}")
    required = _REQUIRED | ({"context"} if number == _FORMAT_WITH_CONTEXT else set())
    _check_keys(data, required=required, known=required | _OPTIONAL, what="the description")
    for field, kind in _TYPES.items():
        value = data.get(field, kind())
        _check(type(value) is kind, f"{field} is {value!r:.40}, expected {_WORDS[kind]}")
    _check(all(isinstance(each, dict) for each in data["requests"]), "a request is not a mapping")
    made_on = data.get("made_on", [])  # older files have none
    _check(all(isinstance(each, str) for each in made_on), "made_on is not a list of texts")
    requests = tuple(_request(each) for each in data["requests"])
    _check(data["joint"] or len(requests) < 2, "it has several requests but is not joint")
    changes = {name: _change(name, each, tensors) for name, each in data["changes"].items()}
    own = {f"{name}/{field}" for name, change in changes.items() for field in change.tensors()}
    if strange := sorted(tensors.keys() - own):
        raise ValueError(f"the tensor {strange[0][:80]!r} belongs to no change")
    return WeightDelta(
        changes=changes,
        request=requests if data["joint"] else next(iter(requests), None),
        editor=data["editor"],
        config=data["config"],
        model_fingerprint=data["model_fingerprint"],
        notes=data["notes"],
        made_on=tuple(made_on),
        context=_context(data["context"]) if "context" in data else None,
    )


def _context(data: Any) -> PromptContext:
    _check(isinstance(data, dict), f"context is {data!r:.40}, expected a mapping")
    _check_keys(data, required=_CONTEXT, known=_CONTEXT, what="the context")
    _check(isinstance(data["texts"], list), f"texts is {data['texts']!r:.40}, expected a list")
    return PromptContext(**{**data, "texts": tuple(data["texts"])})


def _request(data: Mapping[str, Any]) -> EditRequest:
    try:
        return EditRequest.from_dict(data)
    except TypeError as error:  # an unknown or missing field
        raise ValueError(f"a request cannot be read: {error}") from None


def _change(name: str, described: Any, tensors: Mapping[str, Tensor]) -> Change:
    shown = f"the change of {name[:80]!r}"
    _check(bool(name) and name.isprintable(), f"{shown}: that is not the name of a parameter")
    _check(isinstance(described, dict), f"{shown} is not a mapping")
    kind = _KINDS.get(described["kind"]) if isinstance(described.get("kind"), str) else None
    if kind is None:
        raise ValueError(f"{shown} has the unknown kind {described.get('kind')!r:.40}")
    keys = {"kind", "n_rows"} if kind is Rows else {"kind"}
    _check_keys(described, required=keys, known=keys, what=shown)
    names = [field.name for field in dataclasses.fields(kind) if field.name != "n_rows"]
    missing = [field for field in names if f"{name}/{field}" not in tensors]
    _check(not missing, f"{shown} lacks its tensor {', '.join(missing)!r}")
    values: dict[str, Any] = {field: tensors[f"{name}/{field}"] for field in names}
    if kind is Rows:
        values["n_rows"] = described["n_rows"]
    change = kind(**values)
    size = math.prod(change.shape)
    _check(0 < size <= _LARGEST, f"{shown} has the shape {change.shape}")
    _check(change.is_finite(), f"{shown} has numbers that are not finite")
    return change


def _check(sound: bool, problem: str) -> None:
    if not sound:
        raise ValueError(problem)


def _check_keys(
    data: Mapping[str, Any], *, required: AbstractSet[str], known: AbstractSet[str], what: str
) -> None:
    if missing := sorted(required - data.keys()):
        raise ValueError(f"{what} lacks {missing[0]!r}")
    if unknown := sorted(data.keys() - known):
        raise _NewerError(
            f"has the key {unknown[0][:40]!r} in {what}, which this version does not know"
        )
