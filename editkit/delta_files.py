"""Deltas as files: one safetensors file with everything, small enough to mail.

The header carries the description as JSON, and a digest over description and tensors.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from editkit.cache import digest_of_tensors, read_safetensors, write_atomically
from editkit.deltas import Change, Dense, LowRank, Rows, WeightDelta
from editkit.errors import DeltaError
from editkit.requests import EditRequest

__all__ = ["load_delta", "save_delta"]

_FORMAT = 1
_KINDS: Mapping[str, type[Change]] = {"low_rank": LowRank, "rows": Rows, "dense": Dense}


def save_delta(delta: WeightDelta, path: str | Path) -> None:
    """Write a delta as safetensors; the file appears whole or not at all."""
    kinds = {kind: name for name, kind in _KINDS.items()}
    tensors: dict[str, Tensor] = {}
    changes: dict[str, dict[str, Any]] = {}
    for name, change in delta.changes.items():
        changes[name] = {"kind": kinds[type(change)]}
        if isinstance(change, Rows):
            changes[name]["n_rows"] = change.n_rows
        for field, tensor in change.tensors().items():
            tensors[f"{name}/{field}"] = tensor.detach().cpu().contiguous()
    description = json.dumps(
        {
            "format": _FORMAT,
            "changes": changes,
            "requests": [request.to_dict() for request in delta.requests],
            "joint": isinstance(delta.request, tuple),
            "editor": delta.editor,
            "config": dict(delta.config),
            "model_fingerprint": delta.model_fingerprint,
            "notes": dict(delta.notes),
            "made_on": list(delta.made_on),
        },
        sort_keys=True,
    )
    metadata = {"editkit": description, "digest": digest_of_tensors(tensors, description)}
    write_atomically(Path(path), save(tensors, metadata=metadata))


def load_delta(path: str | Path) -> WeightDelta:
    """Read a delta that :func:`save_delta` wrote.

    Raises:
        DeltaError: The file is missing, is none of ours, is from a newer version, or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise DeltaError(f"{path} does not exist.", hint="Check the path of the edit.")
    try:
        metadata, tensors = read_safetensors(path)
    except (SafetensorError, OSError) as error:
        raise DeltaError(
            f"{path} is damaged or no safetensors file: {error}",
            hint="Get the file again from where it was made.",
        ) from error
    if "editkit" not in metadata:
        raise DeltaError(f"{path} is no edit of editkit.", hint="Give a file that editkit saved.")
    description = metadata["editkit"]
    if metadata.get("digest") != digest_of_tensors(tensors, description):
        raise DeltaError(
            f"{path} is damaged: its content does not match its digest.",
            hint="Get the file again from where it was made.",
        )
    data = json.loads(description)
    if data["format"] > _FORMAT:
        raise DeltaError(
            f"{path} has format {data['format']}, this version reads up to {_FORMAT}.",
            hint="Install a newer editkit.",
        )
    requests = tuple(EditRequest.from_dict(each) for each in data["requests"])
    single = requests[0] if requests else None
    return WeightDelta(
        changes={name: _change(name, each, tensors) for name, each in data["changes"].items()},
        request=requests if data["joint"] else single,
        editor=data["editor"],
        config=data["config"],
        model_fingerprint=data["model_fingerprint"],
        notes=data["notes"],
        made_on=tuple(map(str, data.get("made_on", ()))),  # older files have none
    )


def _change(name: str, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Change:
    kind = _KINDS[described["kind"]]
    names = [field.name for field in dataclasses.fields(kind) if field.name != "n_rows"]
    values: dict[str, Any] = {field: tensors[f"{name}/{field}"] for field in names}
    if "n_rows" in described:
        values["n_rows"] = described["n_rows"]
    return kind(**values)
