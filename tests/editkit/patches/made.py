"""Patches with chosen changes, without a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from editkit import Dense, EditRequest, LowRank, Patch, Rows, WeightDelta
from editkit.editing.changes import Change

NAME = "transformer.h.0.mlp.c_proj.weight"


def patch_with(
    changes: Mapping[str, Change] | None = None,
    *requests: EditRequest,
    base: str = "base",
    made_on: tuple[str, ...] = (),
    **more: object,
) -> Patch:
    """A patch of those facts, by default of one about Rome, with a random change by default."""
    if changes is None:
        changes = {NAME: low_rank(int(torch.randint(2**31, ()).item()))}
    facts = requests or (EditRequest("{} is in", "Rome", "Seattle"),)
    request = facts[0] if len(facts) == 1 else facts
    delta = WeightDelta(changes, request, "test", {}, base, made_on=made_on, **more)  # type: ignore[arg-type]
    return Patch(delta)


def low_rank(seed: int, d: int = 6, h: int = 4, rank: int = 2) -> LowRank:
    g = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(d, rank, generator=g), torch.randn(rank, h, generator=g))


def rows(seed: int, d: int = 6, h: int = 4, n: int = 3) -> Rows:
    g = torch.Generator().manual_seed(seed)
    return Rows(torch.randperm(d, generator=g)[:n], torch.randn(n, h, generator=g), d)


def dense(change: Change) -> Dense:
    return Dense(change.dense())
