"""A forecast of a run's memory from the model's shape: weights, statistics, activations."""

from __future__ import annotations

import dataclasses

from editkit.data_types import Requirements
from editkit.models.shape import ModelShape

__all__ = ["MemoryForecast", "forecast"]

PROMPTS_PER_RECORD = 13  # of CounterFact: the rewrite, two paraphrases, ten neighbours
_TOKENS_PER_PASS = 16384  # when scoring
_FLOAT, _DOUBLE = 4, 8


@dataclasses.dataclass(frozen=True)
class MemoryForecast:
    """Memory in bytes.

    Attributes:
        base: The process without a model: Python and its libraries.
        weights: The model's weights.
        statistics: The second moments that the editor keeps, as factors in float64.
        activations: Most at once besides these while the editor prepares a second moment, while it
            edits, or while its edits are scored.
    """

    base: int
    weights: int
    statistics: int
    activations: int

    @property
    def beyond(self) -> int:
        """The peak without :attr:`base`."""
        return self.weights + self.statistics + self.activations

    @property
    def peak(self) -> int:
        """The peak of the process."""
        return self.base + self.beyond


def forecast(
    shape: ModelShape, required: Requirements, *, requests: int, tokens: int, base: int = 0
) -> MemoryForecast:
    """The memory that a run of one editor needs.

    Args:
        shape: The model's shape.
        required: The editor's requirements.
        requests: Requests that are scored together.
        tokens: Tokens of the longest prompt with its target.
        base: Memory of the process without a model.
    """
    squares = [statistic.width**2 for statistic in required.statistics]
    preparing = (_FLOAT + _DOUBLE) * max(squares, default=0)  # C in both types, before its factor
    return MemoryForecast(
        base=base,
        weights=shape.weight_bytes,
        statistics=_DOUBLE * sum(squares),
        activations=max(preparing, required.memory, _scoring(shape, requests, tokens)),
    )


def _scoring(shape: ModelShape, requests: int, tokens: int) -> int:
    """Logits and log probabilities after each prompt, or else the activations of one block."""
    prompts = min(requests * PROMPTS_PER_RECORD, max(1, _TOKENS_PER_PASS // tokens))
    block = tokens * 2 * (shape.hidden_size + shape.inner_size)
    return prompts * max(2 * shape.vocabulary, block) * shape.bytes_per_value
