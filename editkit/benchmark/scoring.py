"""What metrics say about one record, checked and sorted into scores, details and texts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from editkit.benchmark.store_format import LARGEST
from editkit.interfaces import MetricRow


class BadScores(Exception):
    """A record's scores cannot be used; the message says why."""


@dataclasses.dataclass(frozen=True)
class Collected:
    """The answers of all metrics about one record, by what they are."""

    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    details: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    texts: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def collect(answers: Iterable[tuple[str, MetricRow]]) -> Collected:
    """Scores, details and texts of one record from all metrics.

    Metrics that look at the same texts may all give them, under one key.

    Args:
        answers: Name and answer of each metric.

    Raises:
        BadScores: A number is not finite, a value is neither number nor text, or two metrics use
            one key for different things.
    """
    found = Collected()
    for metric, answer in answers:
        for key, value in answer.items():
            texts = _texts(value)
            if texts is not None and found.texts.get(key, texts) != texts:
                raise BadScores(f"metric {metric!r} gives other texts under {key!r} than another")
            if key in found.scores or key in found.details or (key in found.texts and not texts):
                raise BadScores(f"metric {metric!r} gives {key!r}, which another gave already")
            if texts is not None:
                if not all(map(_is_unicode, texts)):
                    raise BadScores(f"metric {metric!r} gives a text of no valid Unicode: {key!r}")
                found.texts[key] = texts
            elif isinstance(value, Sequence) and not isinstance(value, str):
                found.details[key] = [_number(metric, key, item) for item in value]
            else:
                found.scores[key] = _number(metric, key, value)
    return found


def _texts(value: Any) -> list[str] | None:
    """The texts of a list of texts; None for anything else, an empty list too."""
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
        number = float(value)  # scalars of numpy and torch are welcome
    except (TypeError, ValueError):
        raise BadScores(f"metric {metric!r} gives {key} = {value!r}, expected a number") from None
    if not math.isfinite(number):
        raise BadScores(f"metric {metric!r} gives {key} = {number}, which is not finite")
    if abs(number) > LARGEST:
        raise BadScores(f"metric {metric!r} gives {key} = {number:g}, beyond {LARGEST:g}")
    return number
