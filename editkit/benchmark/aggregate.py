"""From rows to the numbers of a table: means, comparisons, and the ``--json`` document.

Only :func:`document` and :func:`cell_document` read a store; the rest are pure functions of rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from editkit.benchmark.intervals import (
    FEWEST,
    UNBOUNDED,
    Z95,
    Bounds,
    Estimate,
    clustered_mean,
    excludes_zero,
    harmonic_mean,
    mean_with_interval,
    summary_difference,
    summary_score,
)
from editkit.benchmark.samples import COLLAPSED, Age, Rows, Sample, Series, State, series_of
from editkit.benchmark.significance import (
    Difference,
    compared,
    corrected,
    paired_test,
    summary_test,
)
from editkit.data_types import Score
from editkit.editing.outcomes import BASELINE, Edit, Outcomes, outcomes_of
from editkit.registry.values_label import values_from
from editkit.results import Cell, ModelRow, Row, Run
from editkit.storage.digests import canonical_json

__all__ = [
    "DOCUMENT_KEYS",
    "FEWEST",
    "SCHEMA",
    "SUMMARY",
    "Z95",
    "Difference",
    "Estimate",
    "Estimates",
    "by_group",
    "cell_document",
    "corrected",
    "document",
    "excludes_zero",
    "harmonic_mean",
    "mean_with_interval",
    "metrics_of",
    "model_metrics_of",
    "outcomes",
    "paired_differences",
    "retention",
    "summary_score",
    "times_of",
]

SUMMARY = Score(
    "summary/score",
    "S",
    name="harmonic mean",
    description="harmonic mean of the scores that the benchmark sums up; 0 if one of them is 0",
)

SCHEMA = 1
DOCUMENT_KEYS = frozenset({"schema", "benchmark", "model", "dataset", "cells", "differences"})
"""Top-level keys of the ``--json`` document. Observers cannot use them."""

_OF_DATASET = ("name", "digest", "n_records", "n_edits", "rejected")

Estimates = dict[str, Estimate]
"""Estimates by score key."""


def metrics_of(rows: Rows, scores: Sequence[Score]) -> Estimates:
    """The mean of every score over the done rows, and the summary score if it is defined.

    Args:
        rows: Rows of one cell, or a sample; failed ones are skipped.
        scores: The declared scores, which come first in the result.

    Returns:
        Estimates by score key.
    """
    sample = Sample.of(rows)
    done = list(sample.done().values())
    models = [model for model, _ in done] if sample.shared else None
    means: Estimates = {}
    for key, bounds in _bounds_of(scores, [row.scores for _, row in done]).items():
        having = [(model, row.scores[key]) for model, row in done if key in row.scores]
        if having:
            means[key] = _mean(having, bounds, shared=sample.shared)
    summarised = [score.key for score in scores if score.summary]
    if summarised and all(key in means for key in summarised):
        columns = [[row.scores.get(key) for _, row in done] for key in summarised]
        means[SUMMARY.key] = summary_score(columns, models)
    return means


def _bounds_of(scores: Sequence[Score], rows: Sequence[Mapping[str, float]]) -> dict[str, Bounds]:
    """The bounds of all scores by key, the declared ones first."""
    others = sorted({key for row in rows for key in row} - {score.key for score in scores})
    return {score.key: score.limits for score in scores} | dict.fromkeys(others, UNBOUNDED)


def _mean(values: Sequence[tuple[Hashable, float]], bounds: Bounds, *, shared: bool) -> Estimate:
    """The mean of values, each with its model."""
    numbers = [value for _, value in values]
    if shared:
        return clustered_mean(numbers, [model for model, _ in values], bounds)
    return mean_with_interval(numbers, bounds)


def model_metrics_of(
    models: Mapping[int, Sequence[ModelRow]], scores: Sequence[Score]
) -> Estimates:
    """The mean of every score of a model over models.

    Args:
        models: Rows by seed, one per model.
        scores: The declared scores, which come first in the result.
    """
    rows = [row for seed in sorted(models) for row in models[seed]]
    means: Estimates = {}
    for key, bounds in _bounds_of(scores, [row.scores for row in rows]).items():
        values = [row.scores[key] for row in rows if key in row.scores]
        if values:
            means[key] = mean_with_interval(values, bounds)
    return means


def retention(series: Series, state: State, scores: Sequence[Score]) -> dict[Age, Estimates]:
    """What is left of facts, by the number of steps since they were written.

    Args:
        series: A sequence.
        state: One of its states.
        scores: As for :func:`metrics_of`.
    """
    means = {age: metrics_of(facts, scores) for age, facts in series.by_age(state).items()}
    return {age: metrics for age, metrics in means.items() if metrics}


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
        edits += _edits_of(row, max(at_edit, default=None))
    return outcomes_of(edits)


def _edits_of(row: Row, taken: float | None) -> list[Edit]:
    """The edit of a row, or the several edits of its record."""
    name = f"case {row.case_id}"
    notes = row.notes if isinstance(row.notes, Mapping) else {}
    facts = notes.get("facts")
    if not isinstance(facts, list) or not all(isinstance(own, Mapping) for own in facts):
        return [Edit(name, notes, taken)]
    common = {key: value for key, value in notes.items() if key != "facts"}
    return [
        Edit(f"{name}, edit {i}", {**common, **own}, taken) for i, own in enumerate(facts, start=1)
    ]


# ---------------------------------------------------------------- comparisons


def paired_differences(first: Rows, second: Rows, scores: Sequence[Score]) -> dict[str, Difference]:
    """``first`` minus ``second``, over the records that both have.

    The interval of a score is that of the mean of per-record differences; the interval of the
    summary score comes from a paired bootstrap. Both are narrower than the two editors' own
    intervals suggest, because the difficulty of a record cancels out. The p-values are those of a
    single comparison; :func:`corrected` corrects those of several.

    Args:
        first: Rows of one editor.
        second: Rows of another editor on the same slice, in the same regime.
        scores: Scores to compare.

    Returns:
        Differences by score key; scores that no record has on both sides are omitted.
    """
    sample, other = Sample.of(first), Sample.of(second)
    ours, theirs = sample.done(), other.done()
    cases = [case for case in ours if case in theirs]  # a case is a seed and a case id
    models = [ours[case][0] for case in cases]
    pairs = {
        score.key: [_pair(ours[case][1], theirs[case][1], score.key) for case in cases]
        for score in scores
    }
    shared, limits = sample.shared or other.shared, {score.key: score.limits for score in scores}
    differences: dict[str, Difference] = {}
    for key, both in pairs.items():
        values = [
            (model, pair[0] - pair[1]) for model, pair in zip(models, both, strict=True) if pair
        ]
        if values:
            mean = _mean(values, _bounds_of_difference(limits[key]), shared=shared)
            numbers = [value for _, value in values]
            clusters = [model for model, _ in values] if shared else None
            differences[key] = compared(mean, paired_test(numbers, clusters), numbers)
    summarised = [score.key for score in scores if score.summary]
    if summarised and all(key in differences for key in summarised):
        one, other_one = (
            [[pair and pair[side] for pair in pairs[key]] for key in summarised] for side in (0, 1)
        )
        clusters = models if shared else None
        differences[SUMMARY.key] = compared(
            summary_difference(one, other_one, clusters), summary_test(one, other_one, clusters)
        )
    return differences


def _bounds_of_difference(bounds: Bounds) -> Bounds:
    low, high = bounds
    return UNBOUNDED if low is None or high is None else (low - high, high - low)


def _pair(ours: Row, theirs: Row, key: str) -> tuple[float, float] | None:
    if key in ours.scores and key in theirs.scores:
        return ours.scores[key], theirs.scores[key]
    return None


def by_group(
    rows: Rows, groups: Mapping[int, str], scores: Sequence[Score]
) -> dict[str, Estimates]:
    """The scores of each group of records.

    Args:
        rows: Rows of one editor.
        groups: Group of each case, such as its relation; other cases are skipped.
        scores: As for :func:`metrics_of`.

    Returns:
        Estimates by score key, by group, sorted by group.
    """
    sample = Sample.of(rows)
    members = sample.split(lambda row: groups.get(row.case_id, ""))
    return {group: metrics_of(members[group], scores) for group in sorted(members) if group}


# ---------------------------------------------------------------- the --json document


def document(
    run: Run, added: Mapping[str, Any] | None = None, *, differences: bool = True
) -> dict[str, Any]:
    """A run as one JSON document.

    Args:
        run: The run; its rows are read from the store.
        added: Entries of observers, such as ``{"mlflow": {...}}``.
        differences: Whether it has the entry ``differences``, which takes seconds.

    Raises:
        StoreError: The store cannot be read.
    """
    own = {
        "schema": SCHEMA,
        "benchmark": run.benchmark,
        "model": dict(sorted(run.model.items())),
        "dataset": {key: run.dataset[key] for key in _OF_DATASET if key in run.dataset},
        "cells": [cell_document(run, cell) for cell in run.cells],
        **({"differences": differences_document(run)} if differences else {}),
    }
    return {**own, **{key: value for key, value in (added or {}).items() if key not in own}}


def differences_document(run: Run) -> list[dict[str, Any]]:
    """Each editor minus the best one of its regime, at the end, over the records that both have.

    The best editor has the largest mean of S, or of the first score where there is no S. P-values
    are corrected for the comparisons of a regime. Cells of one regime that differ only in the seed
    are compared together if facts share models.
    """
    regimes: dict[str, list[Series]] = {}
    for each in series_of(run):
        regimes.setdefault(canonical_json(each.regime.to_dict()), []).append(each)
    entries = []
    for rivals in regimes.values():
        best = _best_of(rivals, run.scores)
        others = [each for each in rivals if each is not best]
        if best is None:
            continue
        lines = [paired_differences(each.last, best.last, run.scores) for each in others]
        for each, line in zip(others, corrected(lines), strict=True):
            entries.append(
                {
                    "editor": each.editor,
                    "cells": [cell.fingerprint for cell in each.cells],
                    "minus": best.editor,
                    "minus_cells": [cell.fingerprint for cell in best.cells],
                    "regime": each.regime.to_dict(),
                    "metrics": _plain(line),
                }
            )
    return entries


def _best_of(rivals: Sequence[Series], scores: Sequence[Score]) -> Series | None:
    """The editor with the largest mean of the first score that one has, S before all others."""
    means = [(each, metrics_of(each.last, scores)) for each in rivals if each.editor != BASELINE]
    for key in (SUMMARY.key, *(score.key for score in scores if score.label)):
        having = [(each, own[key].mean) for each, own in means if key in own]
        if having:
            return max(having, key=lambda pair: pair[1])[0]
    return None


def cell_document(run: Run, cell: Cell) -> dict[str, Any]:
    """The entry of one cell in :func:`document`; scores are fractions."""
    [series] = series_of(run, [cell])
    rows = series.last.rows
    failed = sum(row.status == "failed" for row in rows)
    sequential = cell.regime.kind == "sequential"
    return {
        "editor": cell.editor,
        "preset": cell.preset,
        "values_from": values_from(cell),
        "seed": cell.seed,
        "fingerprint": cell.fingerprint,
        "regime": cell.regime.to_dict(),
        "records": {"done": len(rows) - failed, "failed": failed},
        "metrics": _plain(metrics_of(series.last, run.scores)),
        "models": _plain(model_metrics_of(series.last_models, run.model_scores)),
        "checkpoints": [_checkpoint(run, series, state) for state in series.states if sequential],
        "retention": [
            {"at": state.at, "age": [age.low, age.high], "metrics": _plain(metrics)}
            for state in series.states
            if sequential
            for age, metrics in retention(series, state, run.scores).items()
        ],
        "collapsed": {
            score.key: list(series.first_collapses(score.key).values())
            for score in run.model_scores
            if score.key.endswith(COLLAPSED)
        },
        "edits": outcomes(cell.editor, rows, run.scores).document(),
        "time": times_of(rows),
        "memory": {"peak_rss_mb": max((row.peak_rss_mb for row in rows), default=0.0)},
    }


def _checkpoint(run: Run, series: Series, state: State) -> dict[str, Any]:
    return {
        "at": state.at,
        "metrics": _plain(metrics_of(state.facts, run.scores)),
        "newest": _plain(metrics_of(series.newest(state), run.scores)),
        "models": _plain(model_metrics_of(state.models, run.model_scores)),
    }


def _plain(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {key: dataclasses.asdict(estimate) for key, estimate in estimates.items()}
