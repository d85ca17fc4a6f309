"""Adam over many requests: a separate result for each, or one result for all of them.

In :func:`minimise`, a request's result does not depend on the others: each has separate variables,
Adam state, and stopping point. Only the forward and backward passes are shared. In
:func:`minimise_in_batches`, all requests share the variables.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from editkit.progress import counting

__all__ = ["Objective", "minimise", "minimise_in_batches"]


class Objective(Protocol):
    """What :func:`minimise` minimises, for the requests that have not stopped yet."""

    def evaluate(self, variables: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        """The loss of each request, (R,), followed by any terms of the loss to record.

        Args:
            variables: The variables of each request.
        """

    def select(self, requests: Sequence[int]) -> Self:
        """The objective for a subset of the requests, given by ascending index."""


def minimise(
    variables: Sequence[Sequence[Tensor]],
    objective: Objective,
    *,
    lr: float,
    evaluations: int,
    stop_loss: float,
    weight_decay: float = 0.0,
    project: Callable[[int, Sequence[Tensor]], None] | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> list[list[tuple[float, ...]]]:
    """Minimise the loss of every request with Adam.

    Args:
        variables: The variables of each request: leaves that require gradients, changed in place.
        objective: The losses.
        lr: Adam's learning rate.
        evaluations: Maximum number of loss evaluations. No update follows the last one, so there
            are at most ``evaluations - 1`` updates.
        stop_loss: A request stops, without another update, once its loss is below this value.
        weight_decay: Adam's weight decay.
        project: Called without gradients after each update, with the index of a request and its
            variables, to project them onto the feasible set.
        advance: Called with numbers of evaluations that are done or no longer needed; in total,
            ``evaluations`` for each request. For :func:`editkit.progress.counting`.

    Returns:
        For each request, all evaluations in order: the loss and its terms.
    """
    optimiser = torch.optim.Adam(
        [each for own in variables for each in own], lr=lr, weight_decay=weight_decay
    )
    history: list[list[tuple[float, ...]]] = [[] for _ in variables]
    active = list(range(len(variables)))
    for evaluation in range(evaluations):
        last = evaluation == evaluations - 1
        with torch.set_grad_enabled(not last):
            loss, *terms = objective.evaluate([variables[r] for r in active])  # (R,) each
        for r, row in zip(active, torch.stack([loss, *terms], dim=1).tolist(), strict=True):
            history[r].append(tuple(row))
        going = [place for place, r in enumerate(active) if history[r][-1][0] >= stop_loss]
        stopped = len(active) - len(going)
        advance(len(active) + stopped * (evaluations - evaluation - 1))
        if last or not going:
            break
        moving = [each for place in going for each in variables[active[place]]]
        optimiser.zero_grad()
        gradients = torch.autograd.grad(loss[going].sum(), moving)
        for each, gradient in zip(moving, gradients, strict=True):
            each.grad = gradient
        optimiser.step()
        if project is not None:
            with torch.no_grad():
                for place in going:
                    project(active[place], variables[active[place]])
        if len(going) < len(active):
            active = [active[place] for place in going]
            objective = objective.select(going)
    return history


def minimise_in_batches(
    variables: Sequence[Tensor],
    losses: Callable[[Sequence[int]], Tensor],
    n: int,
    *,
    batch: int,
    lr: float,
    passes: int,
    stop_loss: float,
    weight_decay: float = 0.0,
    seed: int = 0,
    project: Callable[[Sequence[Tensor]], None] | None = None,
) -> tuple[list[float], list[float]]:
    """Minimise the mean loss of n requests with Adam, some of them at a time.

    Every pass goes through all requests in batches, each of which is one update. If they fit in
    one batch, they keep their order and training stops without another update once the loss is
    below ``stop_loss``. Otherwise every pass has an order of its own, from the seed and the
    number of the pass, and training stops after a pass with a mean loss below ``stop_loss``.

    Args:
        variables: Leaves that require gradients, changed in place.
        losses: The loss of each request of a batch, (b,), given their indices.
        n: Number of requests.
        batch: Most requests of an update.
        lr: Adam's learning rate.
        passes: Most passes.
        stop_loss: See above.
        weight_decay: Adam's weight decay.
        seed: Of the order of the requests.
        project: Called without gradients after each update, to project the variables onto the
            feasible set.

    Returns:
        The mean loss of each pass, in which each request is measured before the update of its
        batch; and the loss of each request at the end.
    """
    optimiser = torch.optim.Adam(list(variables), lr=lr, weight_decay=weight_decay)
    means: list[float] = []
    with counting("training", passes * n, unit="fact") as counter:
        for number in range(passes):
            order = list(range(n))
            if n > batch:
                random.Random(f"{seed}-{number}").shuffle(order)
            total = 0.0
            for start in range(0, n, batch):
                with torch.enable_grad():
                    loss = losses(order[start : start + batch])  # (b,)
                    mean = loss.mean()
                total += float(loss.detach().sum())
                counter(len(loss))
                if n <= batch and float(mean.detach()) < stop_loss:
                    break
                gradients = torch.autograd.grad(mean, list(variables))
                for each, gradient in zip(variables, gradients, strict=True):
                    each.grad = gradient
                optimiser.step()
                optimiser.zero_grad()
                if project is not None:
                    with torch.no_grad():
                        project(variables)
            means.append(total / n)
            if means[-1] < stop_loss:
                counter.to(passes * n)
                break
    with torch.no_grad():
        batches = (range(start, min(start + batch, n)) for start in range(0, n, batch))
        return means, [loss for each in batches for loss in losses(each).tolist()]
