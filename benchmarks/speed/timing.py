"""Timing two ways of the same work, and the machine on which it was timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from editkit.benchmark.environment import environment_of
from editkit_benchmarks.speed.limits import Rates

Work = Callable[[], Sequence[float]]
"""Does the work, and returns numbers on which both ways must agree."""

Clock = Callable[[], float]
"""Seconds of a running clock: ``time.perf_counter``, or ``time.process_time`` for CPU seconds."""

_ENOUGH_S = 20.0  # a way that took this long is not repeated


def best_of(ways: dict[str, Work], *, repeats: int, clock: Clock) -> dict[str, float]:
    """Seconds of each way, the best of several alternating repeats.

    Args:
        ways: The ways by name.
        repeats: Most repeats of each; one that has taken 20 s in total is not repeated.
        clock: The clock to read.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            if sum(times[name]) < _ENOUGH_S:
                start = clock()
                work()
                times[name].append(clock() - start)
    return {name: min(seconds) for name, seconds in times.items()}


def relative_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference of two lists of numbers, relative to the largest number."""
    largest = max(abs(b) for b in other)
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) / largest


def document(
    question: str, device: str, results: Sequence[dict[str, Any]], *rates: Rates
) -> dict[str, Any]:
    """The JSON document of a measurement: the machine, its libraries and threads, the results."""
    machine = environment_of({"device": device, "attention": None})
    return {
        "schema": 1,
        "question": question,
        "machine": {**machine, "rates": [each.to_dict() for each in rates]},
        "results": list(results),
    }


def now(clock: str) -> Clock:
    """A clock by name: ``wall`` or ``cpu``."""
    return {"wall": time.perf_counter, "cpu": time.process_time}[clock]
