"""From rows to the numbers of the table: means, intervals, the summary score. Pure functions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from editkit.data_types import Score
from editkit.editing.outcomes import BASELINE, Edit, Outcomes, outcomes_of
from editkit.results import Row

__all__ = ["SUMMARY", "Estimate"]

SUMMARY = Score("summary/score", "S")
_RESAMPLES = 1000
_Z95 = 1.96


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval over ``n`` cases."""

    mean: float
    ci_low: float
    ci_high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.ci_high - self.ci_low) / 2


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and normal 95% interval, ``1.96 std / sqrt(n)`` with the population's deviation."""
    import numpy as np

    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    half = float(_Z95 * numbers.std() / np.sqrt(len(numbers)))
    return Estimate(mean, mean - half, mean + half, len(numbers))


def harmonic_mean(values: Sequence[float]) -> float:
    """Harmonic mean of fractions; 0 when one of them is not above 0."""
    if not values or min(values) <= 0:
        return 0.0
    return len(values) / sum(1 / value for value in values)


def summary_score(columns: Sequence[Sequence[float | None]]) -> Estimate:
    """Harmonic mean of the columns' means, with a percentile bootstrap interval over cases.

    Args:
        columns: One per score, one number per case; None where a case lacks the score.
    """
    center, resampled = _bootstrap(columns)
    return _percentiles(center, resampled, len(columns[0]))


def summary_difference(
    first: Sequence[Sequence[float | None]], second: Sequence[Sequence[float | None]]
) -> Estimate:
    """Difference of two summary scores over the same cases, by a paired bootstrap.

    Every resample draws the same cases for both, so what makes a case hard for both cancels out.

    Args:
        first: As for :func:`summary_score`.
        second: The same of what is subtracted, case by case.
    """
    (center_a, resampled_a), (center_b, resampled_b) = _bootstrap(first), _bootstrap(second)
    return _percentiles(center_a - center_b, resampled_a - resampled_b, len(first[0]))


def _bootstrap(columns: Sequence[Sequence[float | None]]) -> tuple[float, Any]:
    """The summary score, and those of resamples, (resamples,); nan where a score is lacking.

    As many cases are always resampled in the same way.
    """
    import numpy as np

    table = np.array(columns, dtype=np.float64)  # (scores, cases); None becomes nan
    cases = table.shape[1]
    draws = np.random.default_rng(0).integers(0, cases, size=(_RESAMPLES, cases))
    present = ~np.isnan(table)
    filled = np.where(present, table, 0.0)
    sums = filled[:, draws].sum(axis=2)  # (scores, resamples)
    counts = present[:, draws].sum(axis=2)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).T  # (resamples, scores)
    center = harmonic_mean((filled.sum(axis=1) / present.sum(axis=1)).tolist())
    resampled = [
        math.nan if any(map(math.isnan, row)) else harmonic_mean(row) for row in means.tolist()
    ]
    return center, np.array(resampled)


def _percentiles(center: float, resampled: Any, n: int) -> Estimate:
    import numpy as np

    kept = resampled[~np.isnan(resampled)]
    if not len(kept):
        return Estimate(center, center, center, n)
    low, high = np.percentile(kept, [2.5, 97.5])
    # Percentiles may miss the center by a rounding error when all resamples agree.
    return Estimate(center, min(float(low), center), max(float(high), center), n)


def metrics_of(rows: Sequence[Row], scores: Sequence[Score]) -> dict[str, Estimate]:
    """Every score of the done rows, declared ones first, and the summary score where it exists."""
    done = sorted((row for row in rows if row.status == "done"), key=lambda row: row.case_id)
    declared = [score.key for score in scores]
    others = sorted({key for row in done for key in row.scores} - set(declared))
    found: dict[str, Estimate] = {}
    for key in [*declared, *others]:
        values = [row.scores[key] for row in done if key in row.scores]
        if values:
            found[key] = estimate(values)
    wanted = [score.key for score in scores if score.summary]
    if wanted and all(key in found for key in wanted):
        found[SUMMARY.key] = summary_score(
            [[row.scores.get(key) for row in done] for key in wanted]
        )
    return found


def times_of(rows: Sequence[Row]) -> dict[str, float]:
    """Mean seconds per record by what they were spent on; preparation as the longest one."""
    done = [row for row in rows if row.status == "done"]
    times: dict[str, float] = {}
    for key in sorted({key for row in done for key in row.times}):
        values = [row.times[key] for row in done if key in row.times]
        if key == "prepare_s":
            times[key] = max(values)
        else:
            times[f"{key}_mean"] = sum(values) / len(values)
    return times


def outcomes(editor: str, rows: Sequence[Row], scores: Sequence[Score]) -> Outcomes:
    """Which edits of a cell did not work.

    Args:
        editor: Its editor; one that does nothing on purpose is not judged.
        rows: Its rows; failed ones are reported elsewhere, and only their notes count here.
        scores: All scores of the run.
    """
    if editor == BASELINE:
        return Outcomes(len(rows))
    asked = [score.key for score in scores if score.at_edit]
    edits = []
    for row in rows:
        found = [row.scores[key] for key in asked if key in row.scores]
        notes = row.notes if isinstance(row.notes, Mapping) else {}
        edits.append(Edit(f"case {row.case_id}", notes, max(found, default=None)))
    return outcomes_of(edits)


def plain_estimates(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    """Estimates as plain data."""
    return {key: dataclasses.asdict(value) for key, value in estimates.items()}
