"""Lines of tables: an editor in a regime, after a number of facts."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from editkit.benchmark.aggregate import FEWEST, SUMMARY, Estimate, metrics_of, times_of
from editkit.benchmark.completeness import wanted_rows
from editkit.benchmark.samples import Series, State
from editkit.data_types import Score
from editkit.editing.outcomes import BASELINE
from editkit.report.labels import edits_labels, regimes_of, series_labels, series_names
from editkit.report.tables import CELL_COLUMNS, Entry, Line, score_entry
from editkit.results import Run

__all__ = [
    "SIDES_NOTE",
    "Estimates",
    "Result",
    "notes_on_intervals",
    "notes_on_records",
    "results_of",
]

Estimates = Mapping[str, Estimate]
"""Estimates by score key."""

SIDES_NOTE = "-4.2/+1.8: the 95% interval is from 4.2 below to 1.8 above the mean."
_FEW_NOTE = (
    f"No interval and no marks: fewer than {FEWEST} records (or models, where facts share them), "
    "or equal numbers of a score without two bounds."
)
KEYS_NOTE = "at: facts in a model. models: edited models behind a line; intervals are over models."


@dataclasses.dataclass(frozen=True)
class Result:
    """A series after a number of facts.

    Attributes:
        series: The series.
        state: One of its states.
        label: Its label in tables that name the regime.
        name: Its name elsewhere, distinct within the run.
        edits: Its entry in the column ``edits``.
        estimates: Its scores over all facts so far.
    """

    series: Series
    state: State
    label: str
    name: str
    edits: str
    estimates: Estimates

    @property
    def editor(self) -> str:
        """Name of the editor."""
        return self.series.editor

    @property
    def is_last(self) -> bool:
        """Whether it is the series' last state."""
        return self.state is self.series.states[-1]

    @property
    def block(self) -> tuple[str, int]:
        """Regime and number of facts: only results of one block are comparable."""
        return self.edits, self.state.at

    def document(self, run: Run) -> dict[str, Any]:
        """What :data:`CELL_COLUMNS` needs."""
        rows = self.state.facts.rows
        failed = sum(row.status == "failed" for row in rows)
        counts = {"done": len(rows) - failed, "failed": failed}
        if len(self.series.states) == 1:  # earlier checkpoints want fewer rows
            counts["wanted"] = sum(wanted_rows(run, cell) for cell in self.series.cells)
        return {"time": times_of(rows), "records": counts}


def results_of(run: Run, series: Sequence[Series]) -> tuple[Result, ...]:
    """All results of a run, sorted by regime and number of facts, so that comparable ones are
    neighbours."""
    edits = edits_labels(regimes_of(run, series))
    named = list(zip(series, series_labels(series), series_names(series), edits, strict=True))
    return tuple(
        Result(each, state, label, name, own, metrics_of(state.facts, run.scores))
        for regime in dict.fromkeys(edits)
        for at in sorted({s.at for each, _, _, own in named if own == regime for s in each.states})
        for each, label, name, own in named
        if own == regime
        for state in each.states
        if state.at == at
    )


def blocks_of(results: Iterable[Result]) -> list[list[Result]]:
    """Results that are comparable, together."""
    blocks: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        blocks.setdefault(result.block, []).append(result)
    return list(blocks.values())


def key_heads(results: Iterable[Result], *more: str) -> tuple[str, ...]:
    """Heads of the columns that identify a line; more than the editor if models are shared.

    Args:
        results: The results in the table.
        more: Heads after ``at``.
    """
    shared = any(not result.series.regime.is_independent for result in results)
    return ("editor", "edits", "at", *more) if shared else ("editor",)


def key_entries(result: Result, heads: Sequence[str]) -> list[Entry]:
    """Entries of the columns of :func:`key_heads`."""
    texts = {
        "editor": result.label,
        "edits": result.edits,
        "at": str(result.state.at),
        "models": str(result.state.facts.n_models),
    }
    series = {"editor": result.name}
    return [Entry(texts[head], series=series.get(head, "")) for head in heads]


# ---------------------------------------------------------------- scores


def score_columns(scores: Sequence[Score], lines: Iterable[Estimates]) -> tuple[Score, ...]:
    """The summary score and all labelled scores that at least one line has."""
    present = {key for estimates in lines for key in estimates}
    return tuple(score for score in (SUMMARY, *scores) if score.label and score.key in present)


def best_means(
    columns: Sequence[Score], lines: Iterable[tuple[str, Estimates]]
) -> dict[str, float]:
    """The best mean of each column over at least two editors, the unedited model excluded.

    Args:
        columns: The scores.
        lines: Editor and scores of comparable lines.
    """
    ranked = [estimates for editor, estimates in lines if editor != BASELINE]
    best = {}
    for score in columns:
        means = [estimates[score.key].mean for estimates in ranked if score.key in estimates]
        if len(means) > 1 and score.higher_is_better is not None:
            best[score.key] = max(means) if score.higher_is_better else min(means)
    return best


def score_line(
    keys: Sequence[Entry],
    editor: str,
    estimates: Estimates,
    columns: Sequence[Score],
    document: Mapping[str, Any] | None = None,
    *,
    best: Mapping[str, float],
    failed: Collection[str] = (),
    more: Collection[str] = tuple(CELL_COLUMNS),
) -> Line:
    """A line of a table of scores.

    Args:
        keys: The first entries.
        editor: The editor; the unedited model gets no marks.
        estimates: Its scores.
        columns: The scores to print.
        document: An entry as in the ``--json`` document, for the columns after the scores; None
            for a table without them.
        best: Best mean by score key; equal means are bold if they have an interval.
        failed: Keys of the scores that are marked as clear failures.
        more: Heads of the columns after the scores.
    """
    entries = []
    for score in columns:
        estimate, ranked = estimates.get(score.key), editor != BASELINE
        bold = ranked and _is_best(estimate, best.get(score.key))
        entries.append(
            score_entry(score, estimate, bold=bold, failed=ranked and score.key in failed)
        )
    rest = [] if document is None else [Entry(CELL_COLUMNS[head](document)) for head in more]
    return Line((*keys, *entries, *rest))


def _is_best(estimate: Estimate | None, best: float | None) -> bool:
    return estimate is not None and estimate.half_width is not None and estimate.mean == best


def notes_on_intervals(lines: Iterable[Line]) -> tuple[str, ...]:
    """What a reader must know about the intervals in some lines; nothing if all are symmetric.

    Published numbers have the intervals that were printed, or none.
    """
    ours = [line for line in lines if not line.faint]
    spreads = [entry.spread for line in ours for entry in line.entries if entry.is_estimate]
    sides = (SIDES_NOTE,) if any("/" in spread for spread in spreads) else ()
    return (*sides, *((_FEW_NOTE,) if not all(spreads) else ()))


def notes_on_records(
    scores: Sequence[Score], lines: Iterable[tuple[Estimates, int]]
) -> tuple[str, ...]:
    """Which columns are means over fewer records than the lines have, and which have none at all.

    Args:
        scores: The declared scores.
        lines: Scores and number of computed records of each line.
    """
    lines = [(estimates, done) for estimates, done in lines if done]
    missing, fewer = [], []
    for score in scores:
        counts = [(own[score.key].n if score.key in own else 0, done) for own, done in lines]
        if not score.label or all(n == done for n, done in counts):
            continue
        shares = list(dict.fromkeys(f"{n} of {done}" for n, done in counts if n < done))
        if any(n for n, _ in counts):
            fewer.append(f"{score.label} {' or '.join(shares)}")
        else:
            missing.append(score.label)
    return (
        *((f"Records behind a mean, if not all: {'; '.join(fewer)}.",) if fewer else ()),
        *((f"No record has a score for {', '.join(missing)}.",) if missing else ()),
    )


def score_heads(
    keys: Sequence[str], columns: Sequence[Score], more: Iterable[str] = CELL_COLUMNS
) -> tuple[str, ...]:
    """Heads of a table with columns after the scores."""
    return (*keys, *(score.label for score in columns), *more)


def scores_by_head(columns: Iterable[Score], every: Iterable[Score]) -> dict[str, Score]:
    """:attr:`Table.scores` of a table with these columns; S names the scores that it sums up.

    Args:
        columns: The columns.
        every: All scores of the run.
    """
    parts = ", ".join(score.label or score.key for score in every if score.summary)
    summary = dataclasses.replace(SUMMARY, name=f"{SUMMARY.name} of {parts}")
    return {score.label: summary if score.key == SUMMARY.key else score for score in columns}


def chosen_columns(
    columns: Sequence[Score],
    scores: Sequence[Score],
    lines: Iterable[Estimates],
    chosen: Sequence[str],
) -> tuple[Score, ...]:
    """The columns that a user chose, in that order; all columns if nothing was chosen.

    Args:
        columns: The columns of :func:`score_columns`.
        scores: All scores, those without a column included.
        lines: The estimates of the table's lines.
        chosen: Heads or keys; those of other tables are skipped.
    """
    if not chosen:
        return tuple(columns)
    present = {key for estimates in lines for key in estimates}
    known = {score.key: score for score in (SUMMARY, *scores) if score.key in present}
    known |= {score.label: score for score in known.values() if score.label}
    picked = dict.fromkeys(known[name] for name in chosen if name in known)
    return tuple(
        score if score.label else dataclasses.replace(score, label=score.key) for score in picked
    )
