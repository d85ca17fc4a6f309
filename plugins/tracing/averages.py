"""Effects averaged over many facts, by the role of a token and by layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from editkit import Localization

ROLES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)
"""Roles of a prompt's tokens, from left to right (Meng et al. 2022, figure 2)."""

_Z95 = 1.96


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over ``n`` facts, with its 95% interval."""

    mean: float
    low: float
    high: float
    n: int


def roles_of(n_tokens: int, subject: tuple[int, int]) -> dict[str, list[int]]:
    """The tokens of each role; a subject of one token is its own last one only.

    Args:
        n_tokens: Number of the prompt's tokens.
        subject: Half-open span of the subject's tokens.
    """
    first, end = subject
    last = n_tokens - 1
    found: dict[str, list[int]] = {
        ROLES[0]: [first] if end - first > 1 else [],
        ROLES[1]: list(range(first + 1, end - 1)),
        ROLES[2]: [end - 1],
        ROLES[3]: [end] if end < last else [],
        ROLES[4]: list(range(end + 1, last)),
        ROLES[5]: [last] if last >= end else [],
    }
    return found


def by_role(found: Localization) -> dict[str, list[float]]:
    """Effects of one fact, by role: the mean over the role's tokens, layer by layer.

    Raises:
        ValueError: The locator does not tell where the subject is.
    """
    if found.subject is None:
        raise ValueError("the localization has no subject span")
    effects: dict[str, list[float]] = {}
    for role, tokens in roles_of(len(found.tokens), found.subject).items():
        if tokens:
            rows = [found.scores[token] for token in tokens]
            effects[role] = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return effects


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and normal 95% interval, ``1.96 std / sqrt(n)`` with the population's deviation."""
    n = len(values)
    mean = sum(values) / n
    half = _Z95 * math.sqrt(sum((value - mean) ** 2 for value in values) / n) / math.sqrt(n)
    return Mean(mean, mean - half, mean + half, n)


def averaged(facts: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[Mean]]:
    """Means over facts by role and layer; a fact without a role's tokens does not count there.

    Args:
        facts: Effects of each fact, as :func:`by_role` gives them.
    """
    found: dict[str, list[Mean]] = {}
    for role in ROLES:
        rows = [fact[role] for fact in facts if role in fact]
        if rows:
            found[role] = [mean_of(column) for column in zip(*rows, strict=True)]
    return found
