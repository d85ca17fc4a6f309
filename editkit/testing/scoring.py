"""The rules for everything that measures: metrics of records, and metrics of models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from editkit.data_types import Score
from editkit.interfaces import MetricRow
from editkit.models.language_model import LanguageModel
from editkit.registry.plugins import resolve
from editkit.testing.contract import require
from editkit.testing.model_contract import ModelContract

_CONTEXT = 256
"""Long enough for metrics that generate text."""

_ROUNDING = 1e-6  # of scores in single precision


class ScoringContract(ModelContract):
    """The rules for specs with scores and a protocol, and for rows."""

    @override
    def make_model(self, architecture: str | None = None, **changes: Any) -> LanguageModel:
        return super().make_model(architecture, **{"context_length": _CONTEXT, **changes})

    @override
    def distance(self, first: Sequence[MetricRow], second: Sequence[MetricRow]) -> float:
        return max((_distance(a, b) for a, b in zip(first, second, strict=True)), default=0.0)

    def scores(self) -> dict[str, Score]:
        """The declared scores, by key, with those that follow from the configuration."""
        return {score.key: score for score in self._declared()}

    def _declared(self) -> tuple[Score, ...]:
        spec: Any = self.offer().spec
        if not spec.scores_of:
            return tuple(spec.scores)
        scores_of: Any = resolve(spec.scores_of, what="scores_of")
        return (*spec.scores, *scores_of(self.make_config()))

    # ------------------------------------------------------------ the spec

    def test_protocol_is_named(self) -> None:
        """The spec names the protocol of the metric.

        Describe the procedure in a few words, with a version ("mine/top-1/v1"): results of
        different protocols are never averaged together.
        """
        spec: Any = self.offer().spec
        require(spec.protocol.strip(), f"the spec's protocol is {spec.protocol!r}.")

    def test_scores_are_declared(self) -> None:
        """The spec declares at least one score, each key once.

        Give the spec scores=(Score("mine/score", "MS"), ...), or scores_of= for those that depend
        on the configuration.
        """
        keys = [score.key for score in self._declared()]
        require(
            keys and len(keys) == len(set(keys)) and all(key.strip() for key in keys),
            f"the declared scores are {keys!r}.",
        )

    # ------------------------------------------------------------ rows

    def _require_within_bounds(self, score: Score, value: float) -> None:
        low, high = score.limits
        require(
            (low is None or value >= low - _ROUNDING)
            and (high is None or value <= high + _ROUNDING),
            f"{score.key} is {value}, outside its bounds {low} and {high}.",
        )

    def _require_sound(self, row: MetricRow) -> None:
        declared = self.scores()
        for key, value in row.items():
            is_list = isinstance(value, list)
            require(
                is_list != (key in declared),
                f"{key} is {value!r:.60}; it is {'' if key in declared else 'not '}a declared "
                "score. Declared scores are numbers, everything else lists of numbers or texts.",
            )
            if value and isinstance(value, list) and all(isinstance(v, str) for v in value):
                continue
            for number in value if isinstance(value, list) else [value]:
                require(
                    isinstance(number, (int, float)) and math.isfinite(number),
                    f"{key} has {number!r} ({type(number).__name__}), expected finite numbers.",
                )


def _distance(first: MetricRow, second: MetricRow) -> float:
    """Largest difference of two numbers under the same key, relative to the larger or 1."""
    if first.keys() != second.keys():
        return float("inf")
    largest = 0.0
    for key in first:
        a, b = _items(first[key]), _items(second[key])
        if len(a) != len(b):
            return float("inf")
        for x, y in zip(a, b, strict=True):
            if isinstance(x, str) or isinstance(y, str):
                largest = max(largest, 0.0 if x == y else float("inf"))
            else:
                largest = max(largest, abs(x - y) / max(1.0, abs(x), abs(y)))
    return largest


def _items(value: float | list[float] | list[str]) -> Sequence[float | str]:
    return value if isinstance(value, list) else [value]
