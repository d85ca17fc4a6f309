"""Isolation of the steps of a run: their random numbers, and the model's weights."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from editkit.storage.digests import seed_of

if TYPE_CHECKING:
    from editkit.models import LanguageModel

__all__ = ["WeightGuard", "seeded"]


@contextlib.contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Seed all global generators from ``key``, and restore their states afterwards.

    Covers Python's, and those of numpy and torch if they are loaded.
    """
    with contextlib.ExitStack() as stack:
        seed = seed_of(key, n_bytes=4)
        stack.callback(random.setstate, random.getstate())
        random.seed(seed)
        if numpy := sys.modules.get("numpy"):
            stack.callback(numpy.random.set_state, numpy.random.get_state())
            numpy.random.seed(seed)
        if torch := sys.modules.get("torch"):
            _seed_torch(torch, seed, stack)
        yield


def _seed_torch(torch: Any, seed: int, stack: contextlib.ExitStack) -> None:
    stack.callback(torch.set_rng_state, torch.get_rng_state())
    if torch.cuda.is_initialized():
        stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
    torch.manual_seed(seed)


class WeightGuard:
    """Detects any change of the model's weights.

    Each check reads all weights once, about 0.12 s per GB on one core.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._checksums = model.weights.checksums()

    def is_unchanged(self) -> bool:
        """Whether values, types, shapes and names of all weights are the original ones."""
        return self._model.weights.checksums() == self._checksums
