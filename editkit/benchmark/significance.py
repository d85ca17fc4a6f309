"""Paired tests of two editors over the same records, effect sizes, and the records they need.

**Test.** If two editors are equally good, their scores on a record may be swapped, which changes
the sign of the difference. The p-value is the share of all sign patterns with a mean difference at
least as large as the observed one (permutation test, two-sided). It is exact for up to 13
differences other than zero, and for differences of one size (0/1 scores: McNemar's exact test).
Otherwise it comes from 9,999 random patterns with a fixed seed, and above 1,000 differences from
Student's t. S is computed again after each swap. Facts that share a model are swapped together.

**Correction.** Holm's: with m comparisons, the smallest p-value is multiplied by m, the next one by
m - 1, and so on; a p-value is never below a smaller one's.

**Effect size.** Cohen's d_z, the mean difference divided by the standard deviation of differences
(of jackknife pseudo-values for S).

**Records needed** for a power of 80% at a level a: n = (z(1 - a/2) + z(0.8))^2 / d_z^2 +
z(1 - a/2)^2 / 2 (Guenther 1981), but enough for the permutation test to reach a. With m
comparisons, a is 0.05/m.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from editkit.benchmark.intervals import FEWEST, Estimate, numbered

__all__ = [
    "ALPHA",
    "POWER",
    "Comparison",
    "Difference",
    "compared",
    "corrected",
    "holm",
    "paired_test",
    "records_needed",
    "summary_test",
]

ALPHA = 0.05
"""Level of the tests: a difference is significant if its corrected p-value is below it."""

POWER = 0.8
"""The probability of finding the observed difference with the records needed."""

_MOST_EXACT = 13
_MOST_PERMUTED = 1000
_PATTERNS = 9999
_CHUNK = 2_000_000
_TIE = 1e-9


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A paired test.

    Attributes:
        p: The p-value, uncorrected.
        effect: d_z; None if all differences are equal, but not zero: it has no bound then.
        units: Number of independent records, or of models.
    """

    p: float
    effect: float | None
    units: int


@dataclasses.dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference: an estimate with its test.

    Attributes:
        p: Uncorrected p-value; None with fewer than five records or models.
        p_corrected: The p-value corrected for all comparisons of its family.
        effect: d_z; None without a test, and if all differences are equal, but not zero.
        higher: Records with a higher score in the first editor; None for S.
        lower: Records with a lower score; likewise.
        needed: Records (or models) that would separate the two editors; None if they are equal.
    """

    p: float | None = None
    p_corrected: float | None = None
    effect: float | None = None
    higher: int | None = None
    lower: int | None = None
    needed: int | None = None

    @property
    def is_significant(self) -> bool:
        """Whether the corrected p-value is below :data:`ALPHA`."""
        return self.p_corrected is not None and self.p_corrected < ALPHA


def compared(
    estimate: Estimate, test: Comparison | None, differences: Sequence[float] | None = None
) -> Difference:
    """An estimate with its test, as the only comparison of its family.

    Args:
        estimate: A paired difference.
        test: Its test; None with too few records.
        differences: The records' differences; None for S.
    """
    counts: tuple[int | None, int | None] = (None, None)
    if differences is not None:
        counts = sum(d > _TIE for d in differences), sum(d < -_TIE for d in differences)
    shown = Difference(**vars(estimate), higher=counts[0], lower=counts[1])
    if test is None:
        return shown
    needed = records_needed(test.effect)
    return dataclasses.replace(
        shown, p=test.p, p_corrected=test.p, effect=test.effect, needed=needed
    )


def corrected(
    lines: Sequence[Mapping[str, Difference]],
) -> list[dict[str, Difference]]:
    """Comparisons of several editors with one: each score is a family.

    Args:
        lines: The differences of each editor, by score.

    Returns:
        The same with corrected p-values and records needed.
    """
    results: list[dict[str, Difference]] = [dict(line) for line in lines]
    for key in dict.fromkeys(key for line in lines for key in line):
        family = [line for line in results if key in line and line[key].p is not None]
        ps = holm([line[key].p or 0.0 for line in family])
        for line, p in zip(family, ps, strict=True):
            needed = records_needed(line[key].effect, len(family))
            line[key] = dataclasses.replace(line[key], p_corrected=p, needed=needed)
    return results


def holm(ps: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down procedure (1979)."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    results, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min((len(ps) - rank) * ps[i], 1.0))
        results[i] = largest
    return results


def records_needed(effect: float | None, comparisons: int = 1) -> int | None:
    """Records that separate two editors with a power of 80%.

    Args:
        effect: Their d_z; None if it has no bound.
        comparisons: Number of comparisons in the family.

    Returns:
        The number of records, or of models; None without an effect.
    """
    from scipy.special import ndtri

    level = ALPHA / comparisons
    least = max(FEWEST, math.floor(1 - math.log2(level)) + 1)  # 2 / 2^n is below the level
    if effect is None:
        return least
    if abs(effect) < _TIE:
        return None
    normal = float(ndtri(1 - level / 2))
    needed = (normal + float(ndtri(POWER))) ** 2 / effect**2 + normal**2 / 2
    return max(least, math.ceil(needed))


# ---------------------------------------------------------------- tests


def paired_test(
    differences: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> Comparison | None:
    """The test of a mean difference.

    Args:
        differences: One per record.
        clusters: The model of each record, if records share models.

    Returns:
        The test; None with fewer than five records or models.
    """
    import numpy as np

    units: Any = np.asarray(differences, dtype=np.float64)
    if clusters is not None:
        units = np.bincount(numbered(clusters), weights=units)
    if len(units) < FEWEST:
        return None
    units = np.where(np.abs(units) > _TIE, units, 0.0)
    effect = _effect(float(units.mean()), float(units.std(ddof=1)))
    return Comparison(_sign_flip(units, effect), effect, len(units))


def _effect(mean: float, deviation: float) -> float | None:
    if deviation > _TIE:
        return mean / deviation
    return None if abs(mean) > _TIE else 0.0


def _sign_flip(units: Any, effect: float | None) -> float:
    """The p-value of a mean; units: (units,)."""
    import numpy as np
    from scipy.special import bdtr

    moved = units[units != 0]
    sizes = np.abs(moved)
    if not len(moved):
        return 1.0
    if sizes.max() - sizes.min() <= _TIE:  # the number of positive ones is binomial
        fewer = min(int((moved > 0).sum()), int((moved < 0).sum()))
        return min(1.0, 2 * float(bdtr(fewer, len(moved), 0.5)))
    if len(moved) > _MOST_PERMUTED:
        return _student(effect, len(units))

    def statistic(signs: Any) -> Any:
        return np.abs(signs @ moved)

    return _permuted(statistic, len(moved))


def summary_test(
    first: Sequence[Sequence[float | None]],
    second: Sequence[Sequence[float | None]],
    clusters: Sequence[Hashable] | None = None,
) -> Comparison | None:
    """The test of a difference of summary scores.

    Args:
        first: Columns of one editor: one per score, one number per record; None where a record
            lacks the score.
        second: The same columns of the other editor, records in the same order.
        clusters: As for :func:`paired_test`.

    Returns:
        The test; None if a score has fewer than five records or models.
    """
    import numpy as np

    sides = [np.array(columns, dtype=np.float64) for columns in (first, second)]  # (scores, cases)
    present = ~np.isnan(sides[0]) & ~np.isnan(sides[1])
    places = list(range(sides[0].shape[1])) if clusters is None else numbered(clusters)

    def by_unit(table: Any) -> Any:
        return np.stack([np.bincount(places, weights=row) for row in table])  # (scores, units)

    ours, theirs = (by_unit(np.where(present, side, 0.0)) for side in sides)
    counts = by_unit(present)
    units = counts.shape[1]
    if min((row > 0).sum() for row in counts) < FEWEST:
        return None
    n = counts.sum(axis=1)
    observed = _summaries(ours.sum(axis=1) / n) - _summaries(theirs.sum(axis=1) / n)
    left = n[:, None] - counts
    if (left <= 0).any():
        return None
    without = [_summaries(((side.sum(axis=1)[:, None] - side) / left).T) for side in (ours, theirs)]
    pseudo = units * observed - (units - 1) * (without[0] - without[1])
    effect = _effect(float(observed), float(pseudo.std(ddof=1)))
    half = (ours - theirs) / 2
    moved = np.abs(half).max(axis=0) > _TIE
    if not moved.any():
        return Comparison(1.0, 0.0, units)
    if moved.sum() > _MOST_PERMUTED:
        return Comparison(_student(effect, units), effect, units)
    middle = (ours + theirs).sum(axis=1) / 2

    def statistic(signs: Any) -> Any:
        shift = signs @ half[:, moved].T  # (patterns, scores)
        return np.abs(_summaries((middle + shift) / n) - _summaries((middle - shift) / n))

    return Comparison(_permuted(statistic, int(moved.sum())), effect, units)


def _summaries(means: Any) -> Any:
    """Harmonic means over the last axis; 0 where a mean is not positive."""
    import numpy as np

    means = np.atleast_2d(means)
    positive = (means > 0).all(axis=1)
    inverse = (1 / np.where(means > 0, means, 1.0)).sum(axis=1)
    values = np.where(positive, means.shape[1] / inverse, 0.0)
    return values[0] if len(values) == 1 else values


def _permuted(statistic: Any, n: int) -> float:
    """The share of sign patterns with a statistic as large as that of no swap.

    Args:
        statistic: From signs (patterns, n) to (patterns,).
        n: Number of units that a swap changes.
    """
    import numpy as np

    observed = float(np.atleast_1d(statistic(np.ones((1, n))))[0])
    least = observed - _TIE * max(1.0, observed)
    if n <= _MOST_EXACT:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float((np.atleast_1d(statistic(1.0 - 2.0 * bits)) >= least).mean())
    random, hits, done = np.random.default_rng(0), 0, 0
    while done < _PATTERNS:
        rows = min(max(_CHUNK // n, 1), _PATTERNS - done)
        drawn = np.frombuffer(random.bytes((rows * n + 7) // 8), dtype=np.uint8)
        signs = 1.0 - 2.0 * np.unpackbits(drawn)[: rows * n].reshape(rows, n)
        hits += int((np.atleast_1d(statistic(signs)) >= least).sum())
        done += rows
    return (hits + 1) / (_PATTERNS + 1)


def _student(effect: float | None, n: int) -> float:
    """The two-sided p-value of Student's t with the effect d_z over ``n`` units."""
    from scipy.special import stdtr

    if effect is None:
        return 0.0
    return 2 * float(stdtr(n - 1, -abs(effect) * math.sqrt(n)))
