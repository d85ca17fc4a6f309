"""What editing and scoring will need in memory, told from a model's shape alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from editkit.data_types import Needs, StatisticNeeds
from editkit.models.shape import ModelShape

__all__ = ["Estimate", "estimate"]

PROMPTS_PER_RECORD = 13  # of CounterFact: the rewrite, two paraphrases, ten neighbours
_TOKENS_PER_PASS = 16384  # when scoring
_FLOAT, _DOUBLE = 4, 8


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Memory in bytes.

    Attributes:
        base: What the process holds anyway: Python and its libraries.
        weights: The model's weights.
        statistics: Most at once while statistics are computed; 0 if all are cached.
        prepare: Most at once while the editor prepares, besides the weights.
        edit: Most at once while it edits, besides the weights.
        score: Most at once while edits are scored, besides the weights.
    """

    base: int
    weights: int
    statistics: int
    prepare: int
    edit: int
    score: int

    @property
    def beyond(self) -> int:
        """The peak without what the process holds anyway."""
        return self.weights + max(self.statistics, self.prepare, self.edit, self.score)

    @property
    def peak(self) -> int:
        """The most that is held at once."""
        return self.base + self.beyond


def estimate(
    shape: ModelShape,
    needs: Needs,
    *,
    requests: int,
    tokens: int,
    missing: Sequence[StatisticNeeds] = (),
    base: int = 0,
) -> Estimate:
    """What a run of one editor will need.

    Args:
        shape: The model's shape.
        needs: What the editor says.
        requests: Requests that are edited and scored together.
        tokens: Tokens of the longest prompt and target.
        missing: Statistics that must be computed first.
        base: What the process holds anyway.
    """
    return Estimate(
        base=base,
        weights=shape.weight_bytes,
        statistics=max((_computing(shape, statistic) for statistic in missing), default=0),
        prepare=needs.prepare,
        edit=needs.edit,
        score=needs.deltas + _scoring(shape, requests, tokens),
    )


def _computing(shape: ModelShape, statistic: StatisticNeeds) -> int:
    """A product in float32, the same in float64, their sum, and the activations of one pass."""
    from editkit.covariance.second_moment import TOKENS_PER_PASS  # loads torch

    tokens = min(TOKENS_PER_PASS, statistic.tokens or TOKENS_PER_PASS)
    passing = _passing(shape) + statistic.width * (shape.bytes_per_value + _FLOAT)
    return statistic.width**2 * (_FLOAT + 2 * _DOUBLE) + tokens * passing


def _scoring(shape: ModelShape, requests: int, tokens: int) -> int:
    """Logits and log probabilities after each prompt, or else a block's activations."""
    prompts = min(requests * PROMPTS_PER_RECORD, max(1, _TOKENS_PER_PASS // tokens))
    logits = 2 * prompts * shape.vocabulary * shape.bytes_per_value
    return max(logits, prompts * tokens * _passing(shape))


def _passing(shape: ModelShape) -> int:
    """What a token holds at once in a forward pass: the residual stream, the MLP in and out."""
    return 2 * (shape.hidden_size + shape.inner_size) * shape.bytes_per_value
