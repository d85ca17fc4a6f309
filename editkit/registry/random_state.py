"""The state of the global random generators: Python's, and numpy's and torch's if they are loaded.

Importing this module loads neither numpy nor torch.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from editkit.storage.digests import seed_of

__all__ = ["RandomState", "preserved_random_state", "seed_generators", "seeded"]


class RandomState(NamedTuple):
    """A snapshot of the global generators. A library that was not loaded has None."""

    python: tuple[Any, ...]
    numpy: Any
    torch: Any
    cuda: Any

    @classmethod
    def capture(cls) -> RandomState:
        """The current state."""
        numpy, torch = _loaded("numpy"), _loaded("torch")
        return cls(
            python=random.getstate(),
            numpy=numpy.random.get_state() if numpy else None,
            torch=torch.get_rng_state() if torch else None,
            cuda=torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else None,
        )

    def restore(self) -> None:
        """Set all generators to this state."""
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)
        if self.torch is not None:
            sys.modules["torch"].set_rng_state(self.torch)
        if self.cuda is not None:
            sys.modules["torch"].cuda.set_rng_state_all(self.cuda)


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore the state of all generators at the end of the block."""
    state = RandomState.capture()
    try:
        yield
    finally:
        state.restore()


@contextlib.contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Seed all generators from ``key``, and restore their state at the end of the block."""
    with preserved_random_state():
        seed_generators(seed_of(key, n_bytes=4))
        yield


def seed_generators(seed: int) -> None:
    """Seed Python's generator, and numpy's and torch's if they are loaded.

    Args:
        seed: From 0 to 2**32 - 1.
    """
    random.seed(seed)
    if numpy := _loaded("numpy"):
        numpy.random.seed(seed)
    if torch := _loaded("torch"):
        torch.manual_seed(seed)


def _loaded(name: str) -> Any:
    """A library, if its import is complete."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    return None if getattr(spec, "_initializing", False) else module
