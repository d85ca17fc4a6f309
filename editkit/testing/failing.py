"""Errors planned to happen inside a model, at the start, in the middle and at the end of work."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from editkit.models.language_model import LanguageModel


class PlannedError(RuntimeError):
    """Stands for whatever may go wrong inside a model, full memory above all."""


def failures_inside(
    model: LanguageModel, work: Callable[[], object]
) -> Iterator[Callable[[], None]]:
    """Ways to do some work that fail inside a block of the model, each to be called once.

    The work is done once as it is, to count how often blocks are run. Work that does not run the
    model, or that swallows the error, ends without one.
    """
    bomb = _Bomb()
    handles = [
        model.block(layer).register_forward_pre_hook(bomb) for layer in range(model.n_layers)
    ]
    try:
        work()
        calls = bomb.calls
        for moment in sorted({1, calls // 2, calls} - {0}):
            yield functools.partial(bomb.attempt, work, moment)
    finally:
        for handle in handles:
            handle.remove()


class _Bomb:
    """Counts the runs of all blocks, and fails at one of them."""

    def __init__(self) -> None:
        self.calls = 0
        self.moment: int | None = None

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.calls += 1
        if self.calls == self.moment:
            raise PlannedError("an error that was planned by the contract")

    def attempt(self, work: Callable[[], object], moment: int) -> None:
        self.calls, self.moment = 0, moment
        try:
            work()
        except PlannedError:
            pass
        finally:
            self.moment = None
