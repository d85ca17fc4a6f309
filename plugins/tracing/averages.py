"""Effects averaged over many facts, by the role of a token and by layer.

Two ways to average differ in what counts once. ``by_fact``: a fact, with the mean over its tokens
of a role, and each token has one role. ``by_token``: a token, as in the notebook of the published
code, where a token may have two roles: the only token of a subject is its first and its last one,
and the token after the subject is the first subsequent one even where it is the prompt's last.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from editkit import Localization
from editkit_plugins.tracing.config import Averaging

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


PLACES = ("any token", "last subject token", "last token")
"""Where the largest effect of a fact is looked for (appendix B.1 of the paper's first version)."""


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over ``n`` facts (or tokens of a role), with its 95% interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True)
class Largest:
    """The mean over facts of each fact's largest effect over layers.

    Attributes:
        effect: Of the effects.
        probability: Of the probabilities of the answer that the effects restore, where there is a
            corrupted run: what the paper's first version calls the maximum score.
    """

    effect: Mean
    probability: Mean | None


def roles_of(
    n_tokens: int, subject: tuple[int, int], averaging: Averaging = "by_fact"
) -> dict[str, list[int]]:
    """The tokens of each role.

    Args:
        n_tokens: Number of the prompt's tokens.
        subject: Half-open span of the subject's tokens.
        averaging: ``by_fact``: each token from the subject on has one role, and a subject of one
            token is its own last one. ``by_token``: as published.
    """
    first, end = subject
    last = n_tokens - 1
    published = averaging == "by_token"
    found: dict[str, list[int]] = {
        ROLES[0]: [first] if published or end - first > 1 else [],
        ROLES[1]: list(range(first + 1, end - 1)),
        ROLES[2]: [end - 1],
        ROLES[3]: [end] if end < last or (published and end == last) else [],
        ROLES[4]: list(range(end + 1, last)),
        ROLES[5]: [last] if published or last >= end else [],
    }
    return found


def by_role(found: Localization, averaging: Averaging = "by_fact") -> dict[str, list[list[float]]]:
    """Effects of one fact by role, layer by layer: of every token, or their mean.

    Returns:
        What counts once in averages, by role: (tokens, L) or (1, L).

    Raises:
        ValueError: The locator does not tell where the subject is.
    """
    if found.subject is None:
        raise ValueError("the localization has no subject span")
    effects: dict[str, list[list[float]]] = {}
    for role, tokens in roles_of(len(found.tokens), found.subject, averaging).items():
        if not tokens:
            continue
        rows = [list(found.scores[token]) for token in tokens]
        if averaging == "by_fact":
            rows = [[sum(column) / len(rows) for column in zip(*rows, strict=True)]]
        effects[role] = rows
    return effects


def largest(found: Localization) -> dict[str, float]:
    """The largest effect of one fact over all layers, at each of :data:`PLACES`.

    Raises:
        ValueError: The locator does not tell where the subject is.
    """
    if found.subject is None:
        raise ValueError("the localization has no subject span")
    of_token = [max(row) for row in found.scores]
    values = (max(of_token), of_token[found.subject[1] - 1], of_token[-1])
    return dict(zip(PLACES, values, strict=True))


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and normal 95% interval, ``1.96 std / sqrt(n)`` with the population's deviation."""
    n = len(values)
    mean = sum(values) / n
    half = _Z95 * math.sqrt(sum((value - mean) ** 2 for value in values) / n) / math.sqrt(n)
    return Mean(mean, mean - half, mean + half, n)


def averaged(facts: Sequence[Mapping[str, Sequence[Sequence[float]]]]) -> dict[str, list[Mean]]:
    """Means by role and layer; a fact without a role's tokens does not count there.

    Args:
        facts: Effects of each fact, as :func:`by_role` gives them.
    """
    found: dict[str, list[Mean]] = {}
    for role in ROLES:
        rows = [row for fact in facts for row in fact.get(role, ())]
        if rows:
            found[role] = [mean_of(column) for column in zip(*rows, strict=True)]
    return found


def averaged_largest(
    facts: Sequence[Mapping[str, float]], corrupted: Sequence[float | None]
) -> dict[str, Largest]:
    """The means of the largest effects.

    Args:
        facts: Largest effects of each fact, as :func:`largest` gives them.
        corrupted: Probability of each fact's answer in the corrupted run; None where there is none.
    """
    found = {}
    for place in PLACES:
        effects = [fact[place] for fact in facts]
        restored = [
            effect + low for effect, low in zip(effects, corrupted, strict=True) if low is not None
        ]
        probability = mean_of(restored) if len(restored) == len(effects) else None
        found[place] = Largest(mean_of(effects), probability)
    return found
