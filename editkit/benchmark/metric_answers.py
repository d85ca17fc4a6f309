"""What metrics answer, checked and sorted into scores, details and texts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from editkit.benchmark.store_contents import LARGEST
from editkit.interfaces import MetricRow

__all__ = ["BadScores", "Collected", "collect"]


class BadScores(Exception):
    """A metric's answer about a record is unusable; the message says why."""


@dataclasses.dataclass(frozen=True)
class Collected:
    """The answers of all metrics about one record, by type."""

    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    details: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    texts: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def collect(answers: Iterable[tuple[str, MetricRow]]) -> Collected:
    """Sort the answers of all metrics about one record into scores, details and texts.

    Metrics that read the same texts may all return them, under the same key.

    Args:
        answers: Name and answer of each metric.

    Raises:
        BadScores: A number is not finite, a value is neither a number nor a text, or two metrics
            use one key for different values.
    """
    collected = Collected()
    for metric, answer in answers:
        for key, value in answer.items():
            texts = _texts(value)
            if texts is not None and collected.texts.get(key, texts) != texts:
                raise BadScores(
                    f"metric {metric!r} has other texts for {key!r} than another metric"
                )
            if (
                key in collected.scores
                or key in collected.details
                or (key in collected.texts and not texts)
            ):
                raise BadScores(f"metric {metric!r} repeats {key!r} of another metric")
            if texts is not None:
                if not all(map(_is_unicode, texts)):
                    raise BadScores(
                        f"metric {metric!r} has a text for {key!r} with invalid Unicode"
                    )
                collected.texts[key] = texts
            elif isinstance(value, Sequence) and not isinstance(value, str):
                collected.details[key] = [_number(metric, key, item) for item in value]
            else:
                collected.scores[key] = _number(metric, key, value)
    return collected


def _texts(value: Any) -> list[str] | None:
    """A non-empty list of texts; None for any other value."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return list(value) if is_list and value and all(isinstance(v, str) for v in value) else None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(metric: str, key: str, value: Any) -> float:
    try:
        number = float(value)  # accepts scalars of numpy and torch
    except (TypeError, ValueError):
        raise BadScores(f"metric {metric!r} gives {key} = {value!r}, expected a number") from None
    if not math.isfinite(number):
        raise BadScores(f"metric {metric!r} gives {key} = {number}, which is not finite")
    if abs(number) > LARGEST:
        raise BadScores(f"metric {metric!r} gives {key} = {number:g}, beyond {LARGEST:g}")
    return number
