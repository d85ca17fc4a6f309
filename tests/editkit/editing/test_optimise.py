from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from editkit.editing.optimise import minimise, minimise_in_batches


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


def batched(batch: int, *, passes: int = 6, stop_loss: float = 0.0, seed: int = 0):
    """Minimise the mean distance to all targets; also returns the batches in order."""
    x = torch.zeros(2, requires_grad=True)
    asked: list[list[int]] = []

    def losses(rows: Sequence[int]) -> Tensor:
        asked.append(list(rows))
        return (x - TARGETS[list(rows)]).square().sum(dim=1)

    means, final = minimise_in_batches(
        [x], losses, len(TARGETS), batch=batch, lr=0.1, passes=passes, stop_loss=stop_loss,
        seed=seed,
    )  # fmt: skip
    return means, final, asked, x.detach()


def test_one_batch_is_plain_adam_on_the_mean() -> None:
    means, final, asked, x = batched(3)
    y = torch.zeros(2, requires_grad=True)
    adam = torch.optim.Adam([y], lr=0.1)
    expected = []
    for _ in range(6):
        loss = (y - TARGETS).square().sum(dim=1).mean()
        expected.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
    torch.testing.assert_close(x, y.detach())
    assert means == pytest.approx(expected)
    assert asked == [[0, 1, 2]] * 7  # six updates, and the losses at the end
    assert final == pytest.approx((x - TARGETS).square().sum(dim=1).tolist())


def test_every_pass_of_mini_batches_sees_each_request_once_in_an_order_of_its_own() -> None:
    _, _, asked, x = batched(2, passes=8)
    passes = [asked[2 * i] + asked[2 * i + 1] for i in range(8)]
    assert all(sorted(each) == [0, 1, 2] for each in passes)
    assert len(set(map(tuple, passes))) > 2
    assert torch.equal(x, batched(2, passes=8)[3])
    assert not torch.equal(x, batched(2, passes=8, seed=1)[3])


def test_one_batch_stops_without_an_update_and_mini_batches_after_a_pass() -> None:
    means, final, _, x = batched(3, stop_loss=100.0)
    assert (len(means), float(x.abs().max())) == (1, 0.0)
    assert sum(final) / 3 == pytest.approx(means[0])
    means, _, _, x = batched(2, stop_loss=100.0)
    assert len(means) == 1
    assert float(x.abs().max()) > 0
