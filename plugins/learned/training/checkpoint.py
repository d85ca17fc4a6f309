"""Where training stands, in one file: weights, the optimiser, the best weights, what happened."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from editkit import CacheError, ConfigError
from editkit.storage.cache import read_safetensors, write_atomically
from editkit.storage.digests import digest_of_tensors
from editkit.storage.strict_json import parse_json

FILE = "checkpoint.safetensors"


@dataclasses.dataclass
class Progress:
    """What happened so far, as plain data.

    Attributes:
        step: Steps done.
        skipped: Steps whose loss or gradient was not finite, and which changed nothing.
        losses: Sums of the losses since the last validation, and their number.
        history: Every validation: step, losses and scores, seconds of training.
        best: Place of the best one in the history.
        seconds: Time spent in training.
    """

    step: int = 0
    skipped: int = 0
    losses: dict[str, float] = dataclasses.field(default_factory=dict)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best: int | None = None
    seconds: float = 0.0


_PROGRESS: TypeAdapter[Progress] = TypeAdapter(Progress)
_PARTS = ("network", "best", "optimiser")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Everything that training goes on from.

    Attributes:
        identity: What must agree for training to go on: settings, model, data.
        progress: What happened.
        network: State of the network.
        best: State of the network at the best validation; empty before the first.
        optimiser: State of Adam, by number of the parameter and name.
    """

    identity: Mapping[str, Any]
    progress: Progress
    network: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]

    def write(self, folder: Path) -> None:
        """Replace the folder's checkpoint, whole or not at all.

        Raises:
            CacheError: The folder cannot be written; the earlier checkpoint is as it was.
        """
        parts = {"network": self.network, "best": self.best, "optimiser": self.optimiser}
        tensors = {
            f"{part}/{name}": tensor.detach().cpu().contiguous().clone()
            for part, content in parts.items()
            for name, tensor in content.items()
        }
        content = {
            "identity": self.identity,
            "progress": dataclasses.asdict(self.progress),
            "digest": digest_of_tensors(tensors),
        }
        text = json.dumps(content, sort_keys=True)
        try:
            write_atomically(folder / FILE, save(tensors, metadata={"checkpoint": text}))
        except OSError as error:
            raise CacheError(
                f"the checkpoint in {folder} cannot be written: {error}.",
                hint="Make room or allow writing there; the same command goes on from the last one "
                "that was written.",
            ) from error


def read_checkpoint(folder: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The folder's checkpoint; None if there is none.

    Raises:
        ConfigError: It is damaged, or of another training.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        metadata, tensors = read_safetensors(path)
        content = parse_json(metadata.get("checkpoint", "null"), allow_nan=True)
        if not isinstance(content, dict) or not isinstance(content.get("identity"), dict):
            raise ValueError("it says nothing about a training")
        if content.get("digest") != digest_of_tensors(tensors):
            raise ValueError("its digest does not fit")
        progress = _PROGRESS.validate_python(content.get("progress"))
        strange = [name for name in tensors if name.partition("/")[0] not in _PARTS]
        if strange:
            raise ValueError(f"it holds {strange[0][:80]!r}")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"{path} is damaged: {error}.",
            hint="Start again with --fresh, or give another folder with --out.",
        ) from None
    if content["identity"] != identity:
        other = sorted(
            key
            for key in {*identity, *content["identity"]}
            if identity.get(key) != content["identity"].get(key)
        )
        raise ConfigError(
            f"{folder} holds a training with another {', '.join(other)}.",
            hint="Start again with --fresh, or give another folder with --out.",
        )
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, tensor in tensors.items():
        part, _, inside = name.partition("/")
        parts[part][inside] = tensor
    return Checkpoint(identity, progress, parts["network"], parts["best"], parts["optimiser"])


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's state as named tensors."""
    return {
        f"{number}/{name}": value
        for number, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`optimiser_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
