"""Training checkpoints: everything an interrupted training needs to resume to the same weights.

A checkpoint is one safetensors file. It holds tensors in named groups (the network, the optimizer)
and, as JSON in its header, the progress so far, the identity of the training, and a digest of the
tensors. A checkpoint with another identity is refused, so that settings or data never change
halfway through. Random draws should depend on the seed and the step alone: then the step is all
there is to store.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from editkit.errors import CacheError, ConfigError
from editkit.storage.cache import read_safetensors, write_atomically
from editkit.storage.digests import digest_of_tensors
from editkit.storage.strict_json import parse_json

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

__all__ = [
    "Checkpoint",
    "load_optimizer_tensors",
    "optimizer_tensors",
    "read_checkpoint",
    "write_checkpoint",
]

_KEY = "checkpoint"
Progress = TypeVar("Progress")


@dataclasses.dataclass(frozen=True)
class Checkpoint(Generic[Progress]):
    """The content of a checkpoint.

    Attributes:
        progress: How far the training got.
        tensors: Group -> name -> tensor.
    """

    progress: Progress
    tensors: Mapping[str, Mapping[str, Tensor]]


def write_checkpoint(
    path: Path,
    identity: Mapping[str, Any],
    progress: Any,
    tensors: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: The file.
        identity: Everything that must stay the same to resume, as plain data.
        progress: How far the training got: a dataclass of plain data.
        tensors: Group -> name -> tensor.

    Raises:
        CacheError: The file cannot be written. An earlier checkpoint is unchanged.
    """
    from safetensors.torch import save

    flat = {
        f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
        for group, named in tensors.items()
        for name, tensor in named.items()
    }
    header = {
        "identity": identity,
        "progress": dataclasses.asdict(progress),
        "digest": digest_of_tensors(flat),
    }
    try:
        write_atomically(path, save(flat, metadata={_KEY: json.dumps(header, sort_keys=True)}))
    except OSError as error:
        raise CacheError(
            f"the checkpoint {path} cannot be written: {error}.",
            hint="Free some space or make the folder writable, then run the same command again. "
            "It resumes from the last checkpoint.",
        ) from error


def read_checkpoint(
    path: Path,
    identity: Mapping[str, Any],
    *,
    progress: type[Progress],
    groups: Sequence[str],
) -> Checkpoint[Progress] | None:
    """Read a checkpoint of the same training.

    Args:
        path: The file.
        identity: As it was written.
        progress: The dataclass of the progress.
        groups: Names of the groups of tensors; a group without tensors is empty.

    Returns:
        None if the file does not exist.

    Raises:
        ConfigError: It is damaged, or belongs to another training.
    """
    from pydantic import TypeAdapter
    from safetensors import SafetensorError

    if not path.exists():
        return None
    try:
        metadata, flat = read_safetensors(path)
        header = parse_json(metadata.get(_KEY, "null"), allow_nan=True)
        if not isinstance(header, dict) or not isinstance(header.get("identity"), dict):
            raise ValueError("it has no header of a checkpoint")
        if header.get("digest") != digest_of_tensors(flat):
            raise ValueError("its tensors do not match their digest")
        restored = TypeAdapter(progress).validate_python(header.get("progress"))
        tensors: dict[str, dict[str, Tensor]] = {group: {} for group in groups}
        for key, tensor in flat.items():
            group, _, name = key.partition("/")
            if group not in tensors:
                raise ValueError(f"it holds the unknown tensor {key[:80]!r}")
            tensors[group][name] = tensor
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"{path} is damaged: {error}.",
            hint="Start over with --fresh, or choose another folder with --out.",
        ) from None
    written = header["identity"]
    if written != identity:
        keys = sorted({*identity, *written})
        changed = [key for key in keys if identity.get(key) != written.get(key)]
        raise ConfigError(
            f"{path} belongs to a training with a different {', '.join(changed)}.",
            hint="Start over with --fresh, or choose another folder with --out.",
        )
    return Checkpoint(restored, tensors)


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by the parameter's number and the name of the state: ``3/exp_avg``."""
    return {
        f"{number}/{name}": value
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer_tensors(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that :func:`optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
