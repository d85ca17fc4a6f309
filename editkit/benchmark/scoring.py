"""What metrics say about one record, checked and sorted into scores and details."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class BadScores(Exception):
    """A record's scores cannot be used; the message says why."""


def collect(
    answers: Iterable[tuple[str, Mapping[str, float | list[float]]]],
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Scores and details of one record from all metrics.

    Args:
        answers: Name and answer of each metric.

    Raises:
        BadScores: A number is not finite, a value is no number, or two metrics use one key.
    """
    scores: dict[str, float] = {}
    details: dict[str, list[float]] = {}
    for metric, answer in answers:
        for key, value in answer.items():
            if key in scores or key in details:
                raise BadScores(f"metric {metric!r} gives {key!r}, which another gave already")
            if isinstance(value, Sequence) and not isinstance(value, str):
                details[key] = [_number(metric, key, item) for item in value]
            else:
                scores[key] = _number(metric, key, value)
    return scores, details


def _number(metric: str, key: str, value: Any) -> float:
    try:
        number = float(value)  # scalars of numpy and torch are welcome
    except (TypeError, ValueError):
        raise BadScores(f"metric {metric!r} gives {key} = {value!r}, expected a number") from None
    if not math.isfinite(number):
        raise BadScores(f"metric {metric!r} gives {key} = {number}, which is not finite")
    return number
