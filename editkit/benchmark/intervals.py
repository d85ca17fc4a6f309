"""Means with 95% intervals, from independent numbers or from numbers that share models.

Independent numbers have the papers' interval: 1.96 standard errors with the population's deviation.
Facts that share a model are not independent: one accident of the model moves all of them. They form
a cluster, and the interval of their mean is

    m ± t * sqrt( G/(G-1) * sum over clusters of (sum of residuals)^2 ) / N

for N numbers in G clusters, with Student's t of G - 1 degrees of freedom. One cluster has no
interval, however many facts it has.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Hashable, Sequence
from typing import Any

__all__ = [
    "Z95",
    "Estimate",
    "clustered_mean",
    "excludes_zero",
    "harmonic_mean",
    "mean_with_interval",
    "normal_interval",
    "student_t",
    "summary_difference",
    "summary_score",
]

Z95 = 1.96
"""Half-width of a normal 95% interval, in standard errors."""

_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` cases with its 95% interval; also a summary score, or a difference.

    Attributes:
        mean: The mean.
        ci_low: Lower bound of the interval; None if the cases share one model, because they then
            show nothing about how much models differ.
        ci_high: Upper bound; None like ``ci_low``.
        n: Number of cases.
    """

    mean: float
    ci_low: float | None
    ci_high: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """Both bounds, for comparisons and plots; nan, which is neither above nor below anything,
        if there is no interval."""
        if self.ci_low is None or self.ci_high is None:
            return math.nan, math.nan
        return self.ci_low, self.ci_high

    @property
    def half_width(self) -> float | None:
        """What tables print after ±; None if there is no interval."""
        low, high = self.interval
        return None if math.isnan(low) else (high - low) / 2

    def printed(self, form: str, scale: float = 1.0) -> str:
        """The mean and what follows ±, if anything: ``+94.2 ± 1.7`` in the format ``+.1f``."""
        half = self.half_width
        mean = f"{scale * self.mean:{form}}"
        return mean if half is None else f"{mean} ± {scale * half:{form.lstrip('+')}}"


def excludes_zero(difference: Estimate) -> bool:
    """Whether the 95% interval of a difference excludes zero."""
    low, high = difference.interval
    return low > 0 or high < 0


# ---------------------------------------------------------------- means


def mean_with_interval(values: Sequence[float]) -> Estimate:
    """Mean and normal 95% interval, ``1.96 std / sqrt(n)`` with the population's deviation."""
    import numpy as np

    numbers = np.asarray(values, dtype=np.float64)
    return normal_interval(float(numbers.mean()), float(numbers.std()), len(numbers))


def normal_interval(mean: float, deviation: float, n: int) -> Estimate:
    """A mean over ``n`` values with its normal 95% interval, from their standard deviation."""
    half = Z95 * deviation / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """Mean of numbers that share models, with a cluster-robust 95% interval.

    Args:
        values: The numbers, at least one.
        clusters: The model of each number.
    """
    import numpy as np

    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    residuals = np.bincount(_numbered(clusters), weights=numbers - mean)  # (clusters,)
    return _from_clusters(mean, float(np.sum(residuals**2)), len(residuals), len(numbers))


def _from_clusters(mean: float, squares: float, n_clusters: int, n: int) -> Estimate:
    if n_clusters < 2:
        return Estimate(mean, None, None, n)
    error = math.sqrt(n_clusters / (n_clusters - 1) * squares) / n
    half = student_t(n_clusters - 1) * error
    return Estimate(mean, mean - half, mean + half, n)


def _numbered(clusters: Sequence[Hashable]) -> list[int]:
    """Clusters as numbers from 0, in the order of their first members."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]


@functools.cache
def student_t(degrees: int) -> float:
    """The value that Student's t exceeds in absolute size with probability 5%.

    The distribution has a finite series for whole degrees of freedom (Abramowitz and Stegun,
    26.7.3 and 26.7.4), which is inverted by bisection.

    Args:
        degrees: Degrees of freedom, at least 1.
    """
    low, high = 1.9, 12.8  # the values for infinitely many degrees and for one
    for _ in range(60):
        middle = (low + high) / 2
        if _inside(middle, degrees) < 0.95:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _inside(t: float, degrees: int) -> float:
    """Probability that Student's t is between -t and t."""
    angle, odd = math.atan(t / math.sqrt(degrees)), degrees % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    inside = math.sin(angle) * total
    return 2 / math.pi * (angle + inside) if odd else inside


# ---------------------------------------------------------------- the summary score


def harmonic_mean(values: Sequence[float]) -> float:
    """Harmonic mean of fractions; 0 if one of them is not positive."""
    if not values or min(values) <= 0:
        return 0.0
    return len(values) / sum(1 / value for value in values)


def summary_score(
    columns: Sequence[Sequence[float | None]], clusters: Sequence[Hashable] | None = None
) -> Estimate:
    """Harmonic mean of the columns' means, with an interval from a bootstrap.

    Args:
        columns: One per score, one number per case; None where a case lacks the score.
        clusters: The model of each case, if cases share models: models are then resampled, and the
            interval is Student's t times the deviation of the resamples, since percentiles of few
            models are too narrow. Otherwise it has the percentiles of resampled cases.
    """
    center, resampled = _bootstrap(columns, clusters)
    return _from_resamples(center, resampled, columns, clusters)


def summary_difference(
    first: Sequence[Sequence[float | None]],
    second: Sequence[Sequence[float | None]],
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """``first`` minus ``second`` over the same cases, with a paired bootstrap interval.

    Each resample draws the same cases for both sides, so the difficulty of a case cancels out.

    Args:
        first: Columns as for :func:`summary_score`.
        second: The same columns of the other editor, cases in the same order.
        clusters: As for :func:`summary_score`.
    """
    center_a, resampled_a = _bootstrap(first, clusters)
    center_b, resampled_b = _bootstrap(second, clusters)
    return _from_resamples(center_a - center_b, resampled_a - resampled_b, first, clusters)


def _bootstrap(
    columns: Sequence[Sequence[float | None]], clusters: Sequence[Hashable] | None
) -> tuple[float, Any]:
    """The summary score, and those of all resamples, (resamples,); nan where a score is missing.

    The seed is fixed: the same number of cases gives the same resamples.
    """
    import numpy as np

    table = np.array(columns, dtype=np.float64)  # (scores, cases); None becomes nan
    present = ~np.isnan(table)
    filled = np.where(present, table, 0.0)
    center = harmonic_mean((filled.sum(axis=1) / present.sum(axis=1)).tolist())
    if clusters is not None:  # sums of each cluster: (scores, clusters)
        numbers = _numbered(clusters)
        filled = np.stack([np.bincount(numbers, weights=row) for row in filled])
        present = np.stack([np.bincount(numbers, weights=row) for row in present])
    units = filled.shape[1]
    draws = np.random.default_rng(0).integers(0, units, size=(_RESAMPLES, units))
    sums = filled[:, draws].sum(axis=2)  # (scores, resamples)
    counts = present[:, draws].sum(axis=2)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).T  # (resamples, scores)
    resampled = [
        math.nan if any(map(math.isnan, row)) else harmonic_mean(row) for row in means.tolist()
    ]
    return center, np.array(resampled)


def _from_resamples(
    center: float,
    resampled: Any,
    columns: Sequence[Sequence[float | None]],
    clusters: Sequence[Hashable] | None,
) -> Estimate:
    import numpy as np

    n, kept = len(columns[0]), resampled[~np.isnan(resampled)]
    if clusters is not None:
        having = [
            {cluster for value, cluster in zip(column, clusters, strict=True) if value is not None}
            for column in columns
        ]
        # Resamples of G clusters vary by (G-1)/G of the variance, which _from_clusters corrects.
        squares = float(np.var(kept)) * n**2 if len(kept) else 0.0
        return _from_clusters(center, squares, min(map(len, having)), n)
    if not len(kept):
        return Estimate(center, center, center, n)
    low, high = np.percentile(kept, [2.5, 97.5])
    # When all resamples agree, rounding can put the percentiles on one side of the center.
    return Estimate(center, min(float(low), center), max(float(high), center), n)
