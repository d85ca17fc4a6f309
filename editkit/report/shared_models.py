"""Tables about models with many facts: the newest facts, retention, and the models as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from editkit.benchmark.aggregate import SUMMARY, metrics_of, model_metrics_of, retention
from editkit.benchmark.samples import COLLAPSED, Age
from editkit.data_types import Score
from editkit.report.lines import (
    KEYS_NOTE,
    Estimates,
    Result,
    best_means,
    blocks_of,
    chosen_columns,
    key_entries,
    key_heads,
    notes_on_intervals,
    score_columns,
    score_line,
    scores_by_head,
)
from editkit.report.tables import Entry, Line, Table, score_entry
from editkit.results import Run

__all__ = ["model_scores", "newest_facts", "retention_by_age"]

_COLLAPSED = 0.5


def newest_facts(run: Run, results: Sequence[Result], chosen: Sequence[str] = ()) -> Table:
    """The main scores over the facts of the last step, at each checkpoint of the sequences.

    Args:
        run: The run.
        results: The lines of its tables.
        chosen: Columns to show, by head or key; empty for the main scores.
    """
    sequences = [result for result in results if result.series.regime.kind == "sequential"]
    if not any(result.state.at > result.series.regime.step for result in sequences):
        sequences = []  # every fact is one of the newest
    newest = {
        id(result): metrics_of(result.series.newest(result.state), run.scores)
        for result in sequences
    }
    main = [
        score
        for score in score_columns(run.scores, newest.values())
        if score == SUMMARY or score.summary
    ]
    columns = chosen_columns(main, run.scores, newest.values(), chosen)
    keys = key_heads(results, "models")
    lines = []
    for block in blocks_of(sequences):
        best = best_means(columns, [(result.editor, newest[id(result)]) for result in block])
        lines += [
            score_line(
                key_entries(result, keys), result.editor, newest[id(result)], columns, best=best
            )
            for result in block
        ]
    return Table(
        name="newest",
        title="Newest facts",
        head=(*keys, *(score.label for score in columns)),
        lines=tuple(lines) if columns else (),
        scores=scores_by_head(columns, run.scores),
        bold="best at its checkpoint; the unedited model is not ranked",
        notes=(
            "Only the facts of the last step before each checkpoint.",
            *notes_on_intervals(lines),
        ),
        keys=len(keys),
    )


def model_scores(run: Run, results: Sequence[Result], chosen: Sequence[str] = ()) -> Table:
    """The scores of the models as a whole, and where they collapsed.

    Arguments as for :func:`newest_facts`.
    """
    estimates = {
        id(result): model_metrics_of(result.state.models, run.model_scores) for result in results
    }
    shown = [result for result in results if estimates[id(result)]]
    columns = chosen_columns(
        score_columns(run.model_scores, estimates.values()),
        run.model_scores,
        estimates.values(),
        chosen,
    )
    keys = key_heads(results, "models")
    lines = []
    for result in shown if columns else ():
        entries = (score_entry(score, estimates[id(result)].get(score.key)) for score in columns)
        lines.append(Line((*key_entries(result, keys), *entries)))
    return Table(
        name="models",
        title="Scores of the models",
        head=(*keys, *(score.label for score in columns)),
        lines=tuple(lines),
        scores=scores_by_head(columns, run.model_scores),
        notes=(
            *_collapses(run, shown),
            *((KEYS_NOTE,) if len(keys) > 1 else ()),
            *([f"{scaled} x 100."] if lines and (scaled := _times_100(columns)) else []),
            *notes_on_intervals(lines),
        ),
        warnings=tuple(_failed_metrics(shown)),
        keys=len(keys),
    )


def _times_100(columns: Sequence[Score]) -> str:
    """The columns that are times 100, among others that are not."""
    scaled = [score.label for score in columns if score.scale == 100]
    return ", ".join(scaled) if len(scaled) < len(columns) else ""


def _collapses(run: Run, results: Sequence[Result]) -> Iterator[str]:
    """For each collapse score, the first checkpoint of each sequence past its threshold."""
    ends = [
        result for result in results if result.is_last and result.series.regime.kind == "sequential"
    ]
    for score in run.model_scores:
        if not score.key.endswith(COLLAPSED):
            continue
        past, never = [], dict[int, list[str]]()
        for result in ends:
            first = list(result.series.first_collapses(score.key).values())
            if collapsed := sorted(at for at in first if at is not None):
                bounds = dict.fromkeys((collapsed[0], collapsed[-1]))
                models = f" in {len(collapsed)} of {len(first)} models" if len(first) > 1 else ""
                past.append(f"{result.name} at {' to '.join(map(str, bounds))} facts{models}")
            elif first:
                never.setdefault(result.state.at, []).append(result.name)
        past += [f"not up to {at} facts: {', '.join(names)}" for at, names in never.items()]
        if past:
            yield f"First checkpoint with {_meaning(run, score)}: {'; '.join(past)}."


def _meaning(run: Run, score: Score) -> str:
    """The collapse score in words, with the threshold of its metric's configuration."""
    metric = score.key.removesuffix(COLLAPSED).replace("_", "-")
    configs = [each["config"] for each in run.model_metrics if each["name"] == metric]
    threshold = configs[0].get("threshold") if configs else None
    if threshold is None:
        return f"{score.key} above {_COLLAPSED:g}"
    return f"{metric} past its collapse threshold ({threshold:g})"


def _failed_metrics(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        rows = [row for rows in result.state.models.values() for row in rows]
        for metric in sorted({name for row in rows for name in row.errors}):
            reasons = [row.errors[metric] for row in rows if metric in row.errors]
            yield (
                f"{result.name}, {result.state.at} facts: {metric} failed on {len(reasons)} of "
                f"{len(rows)} models: {reasons[0]}"
            )


def retention_by_age(run: Run, results: Sequence[Result]) -> Table:
    """What is left of facts at the end of each sequence, by the number of steps since."""
    scores = [SUMMARY, *(score for score in run.scores if score.label and score.at_edit)]
    ends: list[tuple[Result, Mapping[Age, Estimates]]] = [
        (result, retention(result.series, result.state, run.scores))
        for result in results
        if result.is_last and result.state.at > result.series.regime.step > 0
        if result.series.regime.kind == "sequential"
    ]
    ages = sorted({age for _, own in ends for age in own}, key=lambda age: age.low)
    keys = key_heads(results)
    lines = [
        Line(
            (
                *key_entries(result, keys),
                Entry(score.label),
                *(score_entry(score, own.get(age, {}).get(score.key)) for age in ages),
            )
        )
        for score in scores
        for result, own in ends
        if any(score.key in estimates for estimates in own.values())
    ]
    return Table(
        name="retention",
        title="Retention",
        head=(*keys, "score", *(f"age {age.label}" for age in ages)),
        lines=tuple(lines),
        notes=(
            "age: steps since the facts were written, at the end of the sequence.",
            *notes_on_intervals(lines),
        ),
        keys=len(keys) + 1,
    )
