"""Checkpoints restore what was written, and refuse damaged files and other trainings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from editkit import ConfigError
from editkit.storage.checkpoints import (
    Checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)
from editkit.storage.digests import digest_of_tensors
from tests.hostile import either


@dataclasses.dataclass
class Progress:
    step: int = 0
    losses: dict[str, float] = dataclasses.field(default_factory=dict)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)


def read(path: Path, identity: dict[str, Any]) -> Checkpoint[Progress] | None:
    return read_checkpoint(path, identity, progress=Progress, groups=("network", "best"))


def test_a_checkpoint_restores_progress_and_tensors(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    assert read(path, {}) is None
    weights = {"a.b": torch.rand(3), "c": torch.rand(2, 2)}
    progress = Progress(7, {"edit": float("nan")}, [{"S": 0.5}])
    write_checkpoint(path, {"lr": 0.1}, progress, {"network": weights})
    checkpoint = read(path, {"lr": 0.1})
    assert checkpoint is not None
    assert checkpoint.progress.step == 7
    assert checkpoint.progress.history == [{"S": 0.5}]
    assert checkpoint.tensors["best"] == {}
    assert checkpoint.tensors["network"].keys() == weights.keys()
    assert all(torch.equal(checkpoint.tensors["network"][n], t) for n, t in weights.items())


def test_a_checkpoint_with_another_identity_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {"lr": 0.1, "data": "x", "seed": 0}, Progress(), {})
    with pytest.raises(ConfigError, match="a training with a different data, lr, steps"):
        read(path, {"lr": 0.2, "data": "y", "seed": 0, "steps": 3})


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a list": lambda c: [],
    "no identity": lambda c: c.pop("identity") and c,
    "identity text": lambda c: {**c, "identity": "x"},
    "no digest": lambda c: c.pop("digest") and c,
    "no progress": lambda c: c.pop("progress") and c,
    "step text": lambda c: {**c, "progress": {"step": "many"}},
    "history numbers": lambda c: {**c, "progress": {"history": [1]}},
    "losses list": lambda c: {**c, "progress": {"losses": []}},
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_malformed_header_is_refused(name: str, tmp_path: Path) -> None:
    path, tensors = tmp_path / "checkpoint.safetensors", {"network/a": torch.ones(2)}
    sound = {"identity": {"a": 1}, "progress": {"step": 3}, "digest": digest_of_tensors(tensors)}
    for header, refused in ((sound, False), (DAMAGES[name](dict(sound)), True)):
        save_file(tensors, path, metadata={"checkpoint": json.dumps(header)})
        result = either(lambda: read(path, {"a": 1}), ConfigError)
        assert isinstance(result, ConfigError) == refused


def test_an_unknown_group_of_tensors_is_refused(tmp_path: Path) -> None:
    path, tensors = tmp_path / "checkpoint.safetensors", {"elsewhere/a": torch.ones(2)}
    header = {"identity": {}, "progress": {}, "digest": digest_of_tensors(tensors)}
    save_file(tensors, path, metadata={"checkpoint": json.dumps(header)})
    with pytest.raises(ConfigError, match="elsewhere"):
        read(path, {})


def test_an_optimizer_resumes_to_the_same_weights(tmp_path: Path) -> None:
    weights = [torch.full((2,), float(i), requires_grad=True) for i in range(4)]

    def step(pair: list[torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        sum((w.square() + w).sum() for w in pair).backward()
        optimizer.step()

    first, second = weights[:2], [w.detach().clone().requires_grad_() for w in weights[:2]]
    whole, parts = torch.optim.Adam(first, lr=0.1), torch.optim.Adam(second, lr=0.1)
    for _ in range(3):
        step(first, whole)
    step(second, parts)
    resumed = torch.optim.Adam(second, lr=0.1)
    load_optimizer_tensors(resumed, optimizer_tensors(parts))
    for _ in range(2):
        step(second, resumed)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
