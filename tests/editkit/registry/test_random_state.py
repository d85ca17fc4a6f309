"""Global random generators are restored and seeded together."""

from __future__ import annotations

import random

import numpy
import torch

from editkit.registry.random_state import preserved_random_state, seed_generators


def draws() -> tuple[float, float, float]:
    return random.random(), float(numpy.random.random()), float(torch.rand(()))


def test_the_block_does_not_change_random_states() -> None:
    with preserved_random_state():
        seed_generators(3)
        first = draws()
    with preserved_random_state():
        seed_generators(3)
        with preserved_random_state():
            draws()
            seed_generators(4)
        assert draws() == first
        assert draws() != first
