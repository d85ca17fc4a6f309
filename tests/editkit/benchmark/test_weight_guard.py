"""The guard of a benchmark sees every change of the weights, however it was made."""

from __future__ import annotations

import pytest
import torch

from editkit import Dense, EditRequest, WeightDelta, applied
from editkit.benchmark.cell_bench import WeightGuard
from tests.tiny import tiny

NAME = "transformer.h.0.mlp.c_fc.weight"


def in_place(weight: torch.nn.Parameter) -> None:
    with torch.no_grad():
        weight[3, 5] += 1e-3


def through_data(weight: torch.nn.Parameter) -> None:
    weight.data[3, 5] += 1e-3


def swapped(weight: torch.nn.Parameter) -> None:
    weight.data[[0, 1]] = weight.data[[1, 0]]


def signs(weight: torch.nn.Parameter) -> None:
    """The sum of all entries stays what it was."""
    weight.data[0, 0] += 1.0
    weight.data[1, 1] -= 1.0


@pytest.mark.parametrize("change", [in_place, through_data, swapped, signs])
def test_every_change_is_seen(change) -> None:
    model = tiny()
    guard = WeightGuard(model)
    weight = model.hf.get_parameter(NAME)
    original = weight.detach().clone()
    assert guard.is_unchanged()
    change(weight)
    assert not guard.is_unchanged()
    weight.data.copy_(original)
    assert guard.is_unchanged()


def test_an_edit_that_stays_applied_is_seen() -> None:
    model = tiny()
    guard = WeightGuard(model)
    values = torch.ones(model.hf.get_parameter(NAME).shape)
    request = EditRequest("{} is in", "Rome", "Seattle")
    delta = WeightDelta({NAME: Dense(values)}, request, "x", {}, model.fingerprint)
    block = applied(model, delta)
    block.__enter__()
    assert not guard.is_unchanged()
    block.__exit__(None, None, None)
    assert guard.is_unchanged()


def test_a_weight_of_another_shape_or_name_is_seen() -> None:
    model = tiny()
    guard = WeightGuard(model)
    model.module("transformer.h.0.mlp.c_fc").weight = torch.nn.Parameter(torch.ones(2, 2))
    assert not guard.is_unchanged()
    model = tiny()
    guard = WeightGuard(model)
    model.module("transformer.h.0").register_parameter("more", torch.nn.Parameter(torch.ones(1)))
    assert not guard.is_unchanged()
