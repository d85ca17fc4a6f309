"""From rows to the numbers of a table: means, intervals, comparisons, and the ``--json`` document.

Only :func:`document` and :func:`cell_document` read a store; the rest are pure functions of rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from editkit.benchmark.store import rows_of
from editkit.data_types import Score
from editkit.editing.outcomes import BASELINE, Edit, Outcomes, outcomes_of
from editkit.results import Cell, Row, Run

__all__ = [
    "DOCUMENT_KEYS",
    "SCHEMA",
    "SUMMARY",
    "Z95",
    "Estimate",
    "by_group",
    "cell_document",
    "document",
    "excludes_zero",
    "harmonic_mean",
    "mean_with_interval",
    "metrics_of",
    "normal_interval",
    "outcomes",
    "paired_differences",
    "summary_score",
    "times_of",
]

SUMMARY = Score("summary/score", "S")
Z95 = 1.96
"""Half-width of a normal 95% interval, in standard errors."""

SCHEMA = 1
DOCUMENT_KEYS = frozenset({"schema", "benchmark", "model", "dataset", "cells"})
"""Top-level keys of the ``--json`` document. Observers cannot use them."""

_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` cases with its 95% interval; also a summary score, or a difference."""

    mean: float
    ci_low: float
    ci_high: float
    n: int

    @property
    def half_width(self) -> float:
        """What tables print after ±."""
        return (self.ci_high - self.ci_low) / 2


def mean_with_interval(values: Sequence[float]) -> Estimate:
    """Mean and normal 95% interval, ``1.96 std / sqrt(n)`` with the population's deviation."""
    import numpy as np

    numbers = np.asarray(values, dtype=np.float64)
    return normal_interval(float(numbers.mean()), float(numbers.std()), len(numbers))


def normal_interval(mean: float, deviation: float, n: int) -> Estimate:
    """A mean over ``n`` values with its normal 95% interval, from their standard deviation."""
    half = Z95 * deviation / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def harmonic_mean(values: Sequence[float]) -> float:
    """Harmonic mean of fractions; 0 if one of them is not positive."""
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
    """``first`` minus ``second`` over the same cases, with a paired bootstrap interval.

    Each resample draws the same cases for both sides, so the difficulty of a case cancels out.

    Args:
        first: Columns as for :func:`summary_score`.
        second: The same columns of the other editor, cases in the same order.
    """
    (center_a, resampled_a), (center_b, resampled_b) = _bootstrap(first), _bootstrap(second)
    return _percentiles(center_a - center_b, resampled_a - resampled_b, len(first[0]))


def _bootstrap(columns: Sequence[Sequence[float | None]]) -> tuple[float, Any]:
    """The summary score, and those of all resamples, (resamples,); nan where a score is missing.

    The seed is fixed: the same number of cases gives the same resamples.
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
    # When all resamples agree, rounding can put the percentiles on one side of the center.
    return Estimate(center, min(float(low), center), max(float(high), center), n)


def metrics_of(rows: Sequence[Row], scores: Sequence[Score]) -> dict[str, Estimate]:
    """The mean of every score over the done rows, and the summary score if it is defined.

    Args:
        rows: Rows of one cell; failed ones are skipped.
        scores: The declared scores, which come first in the result.

    Returns:
        Estimates by score key.
    """
    done = sorted((row for row in rows if row.status == "done"), key=lambda row: row.case_id)
    declared = [score.key for score in scores]
    others = sorted({key for row in done for key in row.scores} - set(declared))
    means: dict[str, Estimate] = {}
    for key in [*declared, *others]:
        values = [row.scores[key] for row in done if key in row.scores]
        if values:
            means[key] = mean_with_interval(values)
    summarised = [score.key for score in scores if score.summary]
    if summarised and all(key in means for key in summarised):
        means[SUMMARY.key] = summary_score(
            [[row.scores.get(key) for row in done] for key in summarised]
        )
    return means


def times_of(rows: Sequence[Row]) -> dict[str, float]:
    """Mean seconds per record, by step. ``prepare_s`` is the maximum, since it is per process."""
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
    """Which edits of a cell did not take effect.

    Args:
        editor: Name of the editor. The baseline makes no edits and is not judged.
        rows: Its rows. Of failed rows only the notes count.
        scores: All scores of the run; those declared ``at_edit`` show whether an edit took effect.
    """
    if editor == BASELINE:
        return Outcomes(len(rows))
    keys = [score.key for score in scores if score.at_edit]
    edits = []
    for row in rows:
        at_edit = [row.scores[key] for key in keys if key in row.scores]
        notes = row.notes if isinstance(row.notes, Mapping) else {}
        edits.append(Edit(f"case {row.case_id}", notes, max(at_edit, default=None)))
    return outcomes_of(edits)


# ---------------------------------------------------------------- comparisons


def paired_differences(
    first: Iterable[Row], second: Iterable[Row], scores: Sequence[Score]
) -> dict[str, Estimate]:
    """``first`` minus ``second``, over the records that both have.

    The interval of a score is that of the mean of per-record differences; the interval of the
    summary score comes from a paired bootstrap. Both are narrower than the two editors' own
    intervals suggest, because the difficulty of a record cancels out.

    Args:
        first: Rows of one editor.
        second: Rows of another editor on the same slice.
        scores: Scores to compare.

    Returns:
        Differences by score key; scores that no record has on both sides are omitted.
    """
    ours, theirs = _done(first), _done(second)
    cases = sorted(ours.keys() & theirs.keys())
    pairs = {
        score.key: [_pair(ours[case], theirs[case], score.key) for case in cases]
        for score in scores
    }
    differences = {
        key: mean_with_interval([a - b for a, b in filter(None, both)])
        for key, both in pairs.items()
        if any(both)
    }
    summarised = [score.key for score in scores if score.summary]
    if summarised and all(key in differences for key in summarised):
        sides = [
            [[pair and pair[side] for pair in pairs[key]] for key in summarised] for side in (0, 1)
        ]
        differences[SUMMARY.key] = summary_difference(*sides)
    return differences


def _done(rows: Iterable[Row]) -> dict[int, Row]:
    return {row.case_id: row for row in rows if row.status == "done"}


def _pair(ours: Row, theirs: Row, key: str) -> tuple[float, float] | None:
    if key in ours.scores and key in theirs.scores:
        return ours.scores[key], theirs.scores[key]
    return None


def excludes_zero(difference: Estimate) -> bool:
    """Whether the 95% interval of a difference excludes zero."""
    return difference.ci_low > 0 or difference.ci_high < 0


def by_group(
    rows: Sequence[Row], groups: Mapping[int, str], scores: Sequence[Score]
) -> dict[str, dict[str, Estimate]]:
    """The scores of each group of records.

    Args:
        rows: Rows of one editor.
        groups: Group of each case, such as its relation; other cases are skipped.
        scores: As for :func:`metrics_of`.

    Returns:
        Estimates by score key, by group, sorted by group.
    """
    members: dict[str, list[Row]] = {}
    for row in rows:
        if row.case_id in groups:
            members.setdefault(groups[row.case_id], []).append(row)
    return {group: metrics_of(members[group], scores) for group in sorted(members)}


# ---------------------------------------------------------------- the --json document


def document(run: Run, added: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A run as one JSON document.

    Args:
        run: The run; its rows are read from the store.
        added: Entries of observers, such as ``{"mlflow": {...}}``.

    Raises:
        StoreError: The store cannot be read.
    """
    own = {
        "schema": SCHEMA,
        "benchmark": run.benchmark,
        "model": dict(sorted(run.model.items())),
        "dataset": {key: run.dataset[key] for key in ("name", "digest", "n_records", "rejected")},
        "cells": [cell_document(run, cell) for cell in run.cells],
    }
    return {**own, **{key: value for key, value in (added or {}).items() if key not in own}}


def cell_document(run: Run, cell: Cell) -> dict[str, Any]:
    """The entry of one cell in :func:`document`; scores are fractions."""
    rows = rows_of(run, cell)
    failed = sum(row.status == "failed" for row in rows)
    means = metrics_of(rows, run.scores)
    return {
        "editor": cell.editor,
        "preset": cell.preset,
        "seed": cell.seed,
        "fingerprint": cell.fingerprint,
        "records": {"done": len(rows) - failed, "failed": failed},
        "metrics": {key: dataclasses.asdict(mean) for key, mean in means.items()},
        "edits": outcomes(cell.editor, rows, run.scores).document(),
        "time": times_of(rows),
        "memory": {"peak_rss_mb": max((row.peak_rss_mb for row in rows), default=0.0)},
    }
