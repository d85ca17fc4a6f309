"""Means with 95% intervals, from independent numbers or from numbers that share models.

The interval depends on the bounds of a score. With m the mean of n numbers, s their standard
deviation (n - 1) and e = s / sqrt(n):

*Two bounds*, such as 0 and 1: Wilson's interval. With p = (m - low) / (high - low) it is

    (p + c^2/2k ± c sqrt(p(1-p)/k + c^2/4k^2)) / (1 + c^2/k)

scaled back, for k = n/d effective records. The share d is the variance of the numbers divided by
the largest that their mean allows, p(1-p). Numbers that are 0 or 1 have d = 1, and this is Wilson's
interval; fractions have less variance, so k > n. Near a bound, distributions are skewed and samples
often lack their tail, so d is shrunk towards 1 with the weight of (1 - 2p)^4 records. Equal numbers
have d = 1/n^2 instead of 0 before that, so no interval lacks a width. The critical value c is 1.96
for d = 1, where p alone gives the variance, Student's t for d = 0, and linear between the two.

*One bound*, such as 0 for a perplexity: Student's t for the logarithm of the distance from the
bound (delta method), that is low + (m - low) exp(± t e / (m - low)).

*No bound*: m ± t e.

Facts that share a model are not independent: one accident of the model moves all of them. They form
a cluster, and the standard error of a mean of N numbers in G clusters is

    e = sqrt( G/(G-1) * sum over clusters of (sum of residuals)^2 ) / N

with G in place of n above. The papers' formula, m ± 1.96 s/sqrt(n) with the population's deviation,
is kept next to the interval. Fewer than :data:`FEWEST` records or clusters have no interval.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

__all__ = [
    "FEWEST",
    "UNBOUNDED",
    "Z95",
    "Bounds",
    "Estimate",
    "clustered_mean",
    "excludes_zero",
    "harmonic_mean",
    "mean_with_interval",
    "numbered",
    "student_t",
    "summary_difference",
    "summary_score",
]

Z95 = 1.96
"""Half-width of a normal 95% interval, in standard errors."""

FEWEST = 5
"""Fewest independent records, or models with several facts, that have an interval."""

Bounds = tuple[float | None, float | None]
"""Lowest and highest possible number; None where there is no bound."""

UNBOUNDED: Bounds = (None, None)

_FRACTION = (0.0, 1.0)
_DIFFERENCE = (-1.0, 1.0)
_RESAMPLES = 1000
_DRAWS = 1_000_000
"""Cases that are drawn at once, which bounds the memory: about 32 bytes for each."""
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` cases with its 95% interval; also a summary score, or a difference.

    Attributes:
        mean: The mean.
        ci_low: Lower bound of the interval; None if there are fewer than :data:`FEWEST` records or
            models, or if equal numbers without two bounds show nothing about their spread.
        ci_high: Upper bound; None like ``ci_low``.
        n: Number of cases.
        paper_ci_low: Lower bound by the papers' formula, which can leave the score's range; None
            where the formula does not apply (summary scores, facts that share models).
        paper_ci_high: Upper bound by the papers' formula; None like ``paper_ci_low``.
    """

    mean: float
    ci_low: float | None
    ci_high: float | None
    n: int
    paper_ci_low: float | None = None
    paper_ci_high: float | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """Both bounds, for comparisons and plots; nan, which is neither above nor below anything,
        if there is no interval."""
        if self.ci_low is None or self.ci_high is None:
            return math.nan, math.nan
        return self.ci_low, self.ci_high

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval; None if there is none."""
        low, high = self.interval
        return None if math.isnan(low) else (high - low) / 2

    @property
    def by_paper(self) -> Estimate:
        """The same mean with the interval of the papers' formula, where it applies."""
        if self.paper_ci_low is None or self.paper_ci_high is None:
            return self
        return dataclasses.replace(self, ci_low=self.paper_ci_low, ci_high=self.paper_ci_high)

    def spread(self, form: Callable[[float], str], scale: float = 1.0) -> str:
        """The interval relative to the mean: ``±1.7``, or ``-4.2/+1.8``; empty if there is none.

        ``±`` has the longer side of an interval that is nearly symmetric: its sides are printed
        with the same digits, or differ by less than a quarter and ``±`` does not reach past -1, 0
        or 1 where the interval does not.

        Args:
            form: How a number is printed.
            scale: Multiplies both sides.
        """
        if self.half_width is None:
            return ""
        below, above = (scale * abs(bound - self.mean) for bound in self.interval)
        longer, shorter = max(below, above), min(below, above)
        low, high = (scale * bound for bound in self.interval)
        mean = scale * self.mean
        passed = any(
            mean - longer < limit <= low or high <= limit < mean + longer
            for limit in (-scale, 0.0, scale)
        )
        if form(below) == form(above) or (shorter > 0.75 * longer and not passed):
            return f"±{form(longer)}"
        below_text, above_text = (
            form(side) if side > _ROUNDING else "0" for side in (below, above)
        )
        return f"-{below_text}/+{above_text}"

    def printed(self, form: str, scale: float = 1.0) -> str:
        """The mean and its interval, if any: ``+94.2 ± 1.7`` in the format ``+.1f``."""
        mean = f"{scale * self.mean:{form}}"
        spread = self.spread(lambda side: f"{side:{form.lstrip('+')}}", scale)
        return f"{mean} {spread.replace('±', '± ')}".rstrip()


def excludes_zero(difference: Estimate) -> bool:
    """Whether the 95% interval of a difference excludes zero."""
    low, high = difference.interval
    return low > 0 or high < 0


# ---------------------------------------------------------------- means


def mean_with_interval(values: Sequence[float], bounds: Bounds = UNBOUNDED) -> Estimate:
    """Mean and 95% interval of independent numbers.

    Args:
        values: The numbers, at least one.
        bounds: Their bounds; a bound that a number violates is ignored.
    """
    import numpy as np

    numbers = np.asarray(values, dtype=np.float64)
    mean, deviation, n = float(numbers.mean()), float(numbers.std()), len(numbers)
    if n < FEWEST:
        return Estimate(mean, None, None, n)
    bounds = _held(bounds, float(numbers.min()), float(numbers.max()))
    low, high = _interval(mean, deviation / math.sqrt(n - 1), n, bounds)
    half = Z95 * deviation / math.sqrt(n)
    return Estimate(mean, low, high, n, mean - half, mean + half)


def clustered_mean(
    values: Sequence[float], clusters: Sequence[Hashable], bounds: Bounds = UNBOUNDED
) -> Estimate:
    """Mean of numbers that share models, with a cluster-robust 95% interval.

    Args:
        values: The numbers, at least one.
        clusters: The model of each number.
        bounds: As for :func:`mean_with_interval`.
    """
    import numpy as np

    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    places = numbered(clusters)
    residuals = np.bincount(places, weights=numbers - mean)  # (clusters,)
    sizes = np.bincount(places)  # (clusters,)
    bounds = _held(bounds, float(numbers.min()), float(numbers.max()))
    squares = float(np.sum(residuals**2))
    uneven = len(sizes) * float(np.sum(sizes**2)) / len(numbers) ** 2
    return _from_clusters(mean, squares, len(sizes), len(numbers), bounds, uneven)


def _from_clusters(
    mean: float, squares: float, n_clusters: int, n: int, bounds: Bounds, uneven: float = 1.0
) -> Estimate:
    if n_clusters < FEWEST:
        return Estimate(mean, None, None, n)
    error = math.sqrt(n_clusters / (n_clusters - 1) * squares) / n
    return Estimate(mean, *_interval(mean, error, n_clusters, bounds, uneven), n)


def _held(bounds: Bounds, least: float, most: float) -> Bounds:
    """The bounds without those that the numbers violate: a default need not fit every score."""
    low, high = bounds
    return (
        None if low is None or least < low - _ROUNDING else low,
        None if high is None or most > high + _ROUNDING else high,
    )


def _interval(
    mean: float, error: float, n: int, bounds: Bounds, uneven: float = 1.0
) -> tuple[float | None, float | None]:
    """The bounds of the 95% interval.

    Args:
        mean: A mean of ``n`` independent numbers or clusters.
        error: Its standard error.
        n: At least 2.
        bounds: Bounds of the numbers.
        uneven: Largest d: 1, or more if clusters differ in size.
    """
    low, high = bounds
    if low is not None and high is not None:
        return _wilson(mean, error, n, low, high, uneven)
    if error <= 1e-12 * max(1.0, abs(mean)):
        return None, None
    half = student_t(n - 1) * error
    if low is not None:
        distance = mean - low
        factor = math.exp(half / distance)
        return low + distance / factor, low + distance * factor
    if high is not None:
        below, above = _interval(-mean, error, n, (-high, None))
        return (None, None) if below is None or above is None else (-above, -below)
    return mean - half, mean + half


def _wilson(
    mean: float, error: float, n: int, low: float, high: float, uneven: float
) -> tuple[float, float]:
    width = high - low
    p = min(max((mean - low) / width, 0.0), 1.0)
    largest = p * (1 - p)
    share = 1.0  # d in the equations
    if largest > 1e-12:
        share = min((error / width) ** 2 * n / largest, uneven)
        share = 1 / n**2 if share < 1e-12 else share
        weight = (1 - 2 * p) ** 4
        share = (n * share + weight) / (n + weight)
    effective = n / share
    critical = Z95 + (student_t(n - 1) - Z95) * max(1 - share, 0.0)
    square = critical**2 / effective
    center = (p + square / 2) / (1 + square)
    half = math.sqrt(square * (largest + square / 4)) / (1 + square)
    # Rounding must not move a bound past the mean or the range.
    below, above = max(min(center - half, p), 0.0), min(max(center + half, p), 1.0)
    return min(low + width * below, mean), max(low + width * above, mean)


def numbered(clusters: Sequence[Hashable]) -> list[int]:
    """Clusters as numbers from 0, in the order of their first members."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]


@functools.cache
def student_t(degrees: int) -> float:
    """The value that Student's t exceeds in absolute size with probability 5%.

    Args:
        degrees: Degrees of freedom, at least 1.
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


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

    Resamples of equal numbers are all equal, although the next record could differ. Columns of
    equal numbers therefore add the change of S when they all move to the bounds of their own
    intervals, as the root of the sum of squares on each side.

    Args:
        columns: One per score, one number per case; None where a case lacks the score.
        clusters: The model of each case, if cases share models: models are then resampled, and the
            interval has the standard deviation of the resamples, since percentiles of few models
            are too narrow. Otherwise it has the percentiles of resampled cases.
    """
    center, resampled = _bootstrap(columns, clusters)
    if clusters is not None:
        return _from_cluster_resamples(center, resampled, columns, clusters, _FRACTION)
    return _from_resamples(center, resampled, columns, columns, _FRACTION)


def summary_difference(
    first: Sequence[Sequence[float | None]],
    second: Sequence[Sequence[float | None]],
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """``first`` minus ``second`` over the same cases, with a paired bootstrap interval.

    Each resample draws the same cases for both sides, so the difficulty of a case cancels out.
    Columns with equal differences add to the interval as in :func:`summary_score`.

    Args:
        first: Columns as for :func:`summary_score`.
        second: The same columns of the other editor, cases in the same order.
        clusters: As for :func:`summary_score`.
    """
    center_a, resampled_a = _bootstrap(first, clusters)
    center_b, resampled_b = _bootstrap(second, clusters)
    center, resampled = center_a - center_b, resampled_a - resampled_b
    if clusters is not None:
        return _from_cluster_resamples(center, resampled, first, clusters, _DIFFERENCE)
    differences = [
        [None if a is None or b is None else a - b for a, b in zip(ours, theirs, strict=True)]
        for ours, theirs in zip(first, second, strict=True)
    ]
    return _from_resamples(center, resampled, first, differences, _DIFFERENCE, second)


def _unseen(
    columns: Sequence[Sequence[float | None]],
    varying: Sequence[Sequence[float | None]],
    bounds: tuple[float, float],
    subtracted: Sequence[Sequence[float | None]] | None = None,
) -> tuple[float, float]:
    """What the bootstrap does not see: how far S, or a difference of two, moves down and up.

    The means of the columns whose numbers in ``varying`` are all equal move to the bounds of their
    own intervals. For a difference, either side may be the one that moves; the larger move counts,
    so that exchanging the sides exchanges down and up.
    """
    steps_down, steps_up = [], []
    for column in varying:
        numbers = _present(column)
        own = mean_with_interval(numbers, bounds)
        is_equal = max(numbers) - min(numbers) <= _ROUNDING and own.half_width is not None
        low, high = own.interval if is_equal else (own.mean, own.mean)
        steps_down.append(low - own.mean)
        steps_up.append(high - own.mean)
    down, up = -_moved(columns, steps_down), _moved(columns, steps_up)
    if subtracted is not None:
        down = max(down, _moved(subtracted, [-step for step in steps_down]))
        up = max(up, -_moved(subtracted, [-step for step in steps_up]))
    return down, up


def _moved(columns: Sequence[Sequence[float | None]], steps: Sequence[float]) -> float:
    """How far S moves if the mean of each column moves by a step, within 0 and 1."""
    means = [sum(own) / len(own) for own in map(_present, columns)]
    moved = [
        min(max(mean + step, 0.0), 1.0) if step else mean
        for mean, step in zip(means, steps, strict=True)
    ]
    return harmonic_mean(moved) - harmonic_mean(means)


def _present(column: Sequence[float | None]) -> list[float]:
    return [value for value in column if value is not None]


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
        numbers = numbered(clusters)
        filled = np.stack([np.bincount(numbers, weights=row) for row in filled])
        present = np.stack([np.bincount(numbers, weights=row) for row in present])
    units = filled.shape[1]
    generator = np.random.default_rng(0)
    totals = []  # of each score and of how many cases have it: (some resamples, 2 x scores)
    both = np.concatenate([filled, present]).T  # (units, 2 x scores)
    for start in range(0, _RESAMPLES, step := max(1, _DRAWS // units)):
        n = min(step, _RESAMPLES - start)
        draws = generator.integers(0, units, size=(n, units))
        cells = (draws + units * np.arange(n)[:, None]).ravel()
        times = np.bincount(cells, minlength=n * units).reshape(n, units)
        totals.append(times @ both)
    sums, counts = np.split(np.concatenate(totals), 2, axis=1)  # each (resamples, scores)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    resampled = [
        math.nan if any(map(math.isnan, row)) else harmonic_mean(row) for row in means.tolist()
    ]
    return center, np.array(resampled)


def _from_resamples(
    center: float,
    resampled: Any,
    columns: Sequence[Sequence[float | None]],
    varying: Sequence[Sequence[float | None]],
    bounds: tuple[float, float],
    subtracted: Sequence[Sequence[float | None]] | None = None,
) -> Estimate:
    import numpy as np

    n, kept = len(columns[0]), resampled[~np.isnan(resampled)]
    if min(len(_present(column)) for column in columns) < FEWEST or not len(kept):
        return Estimate(center, None, None, n)
    low, high = (float(bound) for bound in np.percentile(kept, [2.5, 97.5]))
    # When all resamples agree, rounding can put the percentiles on one side of the center.
    down, up = _unseen(columns, varying, bounds, subtracted)
    below, above = math.hypot(max(center - low, 0.0), down), math.hypot(max(high - center, 0.0), up)
    lowest, highest = bounds
    return Estimate(center, max(center - below, lowest), min(center + above, highest), n)


def _from_cluster_resamples(
    center: float,
    resampled: Any,
    columns: Sequence[Sequence[float | None]],
    clusters: Sequence[Hashable],
    bounds: Bounds,
) -> Estimate:
    import numpy as np

    n, kept = len(columns[0]), resampled[~np.isnan(resampled)]
    having = [
        {cluster for value, cluster in zip(column, clusters, strict=True) if value is not None}
        for column in columns
    ]
    # Resamples of G clusters vary by (G-1)/G of the variance, which _from_clusters corrects.
    squares = float(np.var(kept)) * n**2 if len(kept) else 0.0
    bounds = _held(bounds, center, center)
    return _from_clusters(center, squares, min(map(len, having)), n, bounds)
