from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from editkit.editing.optimise import minimise


@dataclasses.dataclass(frozen=True)
class Distance:
    """|x - target|² of each request, and the largest entry as a recorded term."""

    targets: Tensor  # (R, n)

    def evaluate(self, variables: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        x = torch.stack([own[0] for own in variables])  # (R, n)
        apart = x - self.targets
        return apart.square().sum(dim=1), apart.abs().amax(dim=1)

    def select(self, requests: Sequence[int]) -> Distance:
        return Distance(self.targets[list(requests)])


TARGETS = torch.tensor([[1.0, 0.0], [0.1, 0.1], [-2.0, 3.0]])


def variables(n: int) -> list[list[Tensor]]:
    return [[torch.zeros(2, requires_grad=True)] for _ in range(n)]


def alone(target: Tensor, evaluations: int, stop_loss: float) -> tuple[list[float], Tensor]:
    x = torch.zeros(2, requires_grad=True)
    adam = torch.optim.Adam([x], lr=0.1)
    losses = []
    for step in range(evaluations):
        loss = (x - target).square().sum()
        losses.append(loss.item())
        if losses[-1] < stop_loss or step == evaluations - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
    return losses, x.detach()


def test_each_request_is_optimised_as_it_would_be_alone() -> None:
    many = variables(3)
    history = minimise(many, Distance(TARGETS), lr=0.1, evaluations=15, stop_loss=0.3)
    for own, rows, target in zip(many, history, TARGETS, strict=True):
        losses, x = alone(target, 15, 0.3)
        assert [loss for loss, _ in rows] == losses
        assert torch.equal(own[0].detach(), x)
    assert sorted({len(rows) for rows in history}) == [1, 6, 15]


def test_no_update_follows_the_last_evaluation() -> None:
    [own] = many = variables(1)
    [rows] = minimise(many, Distance(TARGETS[:1]), lr=0.1, evaluations=1, stop_loss=0.0)
    assert rows == [(1.0, 1.0)]
    assert not own[0].any()


def test_variables_are_projected_after_every_update() -> None:
    many = variables(3)

    def box(request: int, own: Sequence[Tensor]) -> None:
        own[0].clamp_(-0.1 * request, 0.1 * request)

    minimise(many, Distance(TARGETS), lr=0.5, evaluations=5, stop_loss=0.0, project=box)
    assert [float(own[0].detach().abs().max()) for own in many] == pytest.approx([0.0, 0.1, 0.2])
