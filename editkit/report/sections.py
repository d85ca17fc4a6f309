"""One run of a store as the section of a report: its numbers, warnings and tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from editkit.benchmark.aggregate import (
    SUMMARY,
    by_group,
    metrics_of,
    outcomes,
)
from editkit.benchmark.completeness import wanted_rows
from editkit.benchmark.published import Published
from editkit.benchmark.repeated_edits import contradictions, warning_of
from editkit.benchmark.samples import Sample, Series, series_of
from editkit.benchmark.store import requests_of
from editkit.data_types import EditRequest, Failure, Score
from editkit.editing.outcomes import BASELINE, Outcomes
from editkit.regimes import INDEPENDENT
from editkit.registry.plugins import default_registry
from editkit.registry.relation_names import relation_names
from editkit.report.differences import (
    Compared,
    compare,
    differences_table,
    effects_table,
    matrix_table,
)
from editkit.report.labels import distinct_titles, labels_of
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
    notes_on_records,
    results_of,
    score_columns,
    score_heads,
    score_line,
    scores_by_head,
)
from editkit.report.shared_models import model_scores, newest_facts, retention_by_age
from editkit.report.tables import CELL_COLUMNS, Entry, Line, Table, score_entry
from editkit.results import Row, Run

__all__ = ["MOST_CELLS", "Intervals", "Section", "is_failure", "sections_of"]

MOST_CELLS = 16
"""Tables with one column per cell are omitted if there are more cells."""

Intervals = Literal["wilson", "paper"]

_PAPER_NOTE = "Intervals have the papers' formula, 1.96 standard errors; that of S is a bootstrap."


# ---------------------------------------------------------------- marks


def is_failure(score: Score, estimates: Estimates, unedited: Estimates | None) -> bool:
    """Whether the whole 95% interval of a mean is below the bound that its score declares.

    Args:
        score: The score.
        estimates: All scores of the editor.
        unedited: All scores of the unedited model, if the run has it.
    """
    if score.failure is None or score.key not in estimates:
        return False
    bound = _bound(score, score.failure, estimates, unedited or {})
    return bound is not None and estimates[score.key].interval[1] < bound


def _bound(score: Score, failure: Failure, own: Estimates, unedited: Estimates) -> float | None:
    reference = own.get(failure.of) if failure.of else unedited.get(score.key)
    bounds = [] if reference is None else [failure.share * reference.mean]
    if failure.floor is not None:
        bounds.append(failure.floor)
    return max(bounds, default=None)


def failure_rules(scores: Sequence[Score]) -> list[str]:
    """The bounds of :func:`is_failure` in words, one sentence per kind of failure."""
    labels = {score.key: score.label for score in scores}
    bounds: dict[str, list[str]] = {}
    for score in scores:
        if score.label and (failure := score.failure):
            of = labels.get(failure.of) or failure.of
            reference = f"the editor's own {of}" if failure.of else "the unedited model's"
            floor = "" if failure.floor is None else f" or below {score.scale * failure.floor:g}"
            bounds.setdefault(failure.name, []).append(
                f"{score.label} below {100 * failure.share:.0f}% of {reference}{floor}"
            )
    return [f"{name} fails with {', or '.join(each)}" for name, each in bounds.items()]


# ---------------------------------------------------------------- a run


@dataclasses.dataclass(frozen=True)
class Section:
    """A run, with all data that its report needs.

    Attributes:
        run: The run.
        title: One line that describes it.
        labels: Label of each cell.
        rows: The last row of every record of each cell.
        estimates: Scores of each cell, over these rows.
        series: Its cells; those that differ only in the seed are one series if facts share models.
        results: The lines of its tables: a series at a checkpoint.
        requests: The edits by case id, if the store has them.
        published: Published results to compare with; they are about independent edits.
        warnings: Warnings about missing and failed records.
        relation_names: Names of the dataset's relations, by identifier.
        intervals: ``wilson``: the intervals of :mod:`editkit.benchmark.intervals`; ``paper``: the
            papers' formula; None: the papers' formula only next to published numbers.
        chosen: Columns that tables show, by head or key, in this order; empty for all.
    """

    run: Run
    title: str
    labels: tuple[str, ...]
    rows: tuple[tuple[Row, ...], ...]
    estimates: tuple[Estimates, ...]
    series: tuple[Series, ...]
    results: tuple[Result, ...]
    requests: Mapping[int, tuple[EditRequest, ...]]
    published: tuple[Published, ...]
    warnings: tuple[str, ...]
    relation_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    intervals: Intervals | None = None
    chosen: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[Score, ...]:
        """The scores that have a column."""
        return score_columns(self.run.scores, (result.estimates for result in self.results))

    @property
    def shown(self) -> tuple[Score, ...]:
        """The columns of tables: those in ``chosen``, or all."""
        lines = [result.estimates for result in self.results]
        return chosen_columns(self.columns, self.run.scores, lines, self.chosen)

    @property
    def last(self) -> list[Result]:
        """The last result of each series, in the order of the series."""
        last = {id(result.series): result for result in self.results}
        return [last[id(series)] for series in self.series]

    @property
    def outcomes(self) -> tuple[Outcomes, ...]:
        """For each series, which of its edits did not work."""
        return tuple(
            outcomes(series.editor, series.last.rows, self.run.scores) for series in self.series
        )

    @property
    def unedited(self) -> Estimates | None:
        """The scores of the unedited model, if the run has it."""
        cells = zip(self.run.cells, self.estimates, strict=True)
        return next((scores for cell, scores in cells if cell.editor == BASELINE), None)

    @property
    def relations(self) -> dict[int, str]:
        """The relation of each case with edits of one relation."""
        of_edits = {
            case: {request.relation_id for request in requests}
            for case, requests in self.requests.items()
        }
        return {
            case: relation
            for case, relations in of_edits.items()
            if len(relations) == 1 and (relation := next(iter(relations)))
        }

    def references(self, against: str | None = None) -> dict[int, Result]:
        """What each result is compared with, by its place in ``results``.

        A result is compared with one of the same regime and checkpoint: with the series that is
        best in its regime at the end, or with the unedited model if no score has a direction.

        Args:
            against: Editor, label or name of the series to compare with instead.
        """
        references = {}
        for i, result in enumerate(self.results):
            rivals = [other for other in self.last if other.edits == result.edits]
            chosen = self._reference(rivals, against)
            if chosen is not None and chosen.series is not result.series:
                for other in self.results:
                    if other.series is chosen.series and other.block == result.block:
                        references[i] = other
        return references

    def _reference(self, rivals: Sequence[Result], against: str | None) -> Result | None:
        if against is not None:
            for attribute in ("name", "label", "editor"):
                for result in rivals:
                    if getattr(result, attribute) == against:
                        return result
            return None
        ranked = [result for result in rivals if result.editor != BASELINE]
        best = self._best(ranked, with_intervals=True)
        unedited = next((each for each in rivals if each.editor == BASELINE), None)
        return best or self._best(ranked, with_intervals=False) or unedited

    def _best(self, results: Sequence[Result], *, with_intervals: bool) -> Result | None:
        """The best result in the first score that any of them has, and that has a direction."""
        for score in self.columns:
            having = [
                (each.estimates[score.key].mean, each)
                for each in results
                if score.key in each.estimates
                and (each.estimates[score.key].half_width is not None or not with_intervals)
            ]
            if having and score.higher_is_better is not None:
                choose = max if score.higher_is_better else min
                return choose(having, key=lambda pair: pair[0])[1]
        return None

    def tables(self, against: str | None = None) -> list[Table]:
        """The tables of all formats; tables without lines are omitted.

        Args:
            against: Editor that the others are compared with; by default the best one.
        """
        more = [*self.comparison_tables(against), self.by_relation()]
        return [*self.main_tables(), *(table for table in more if table.lines)]

    def main_tables(self) -> list[Table]:
        """The scores, and what belongs to them if facts share models."""
        tables = [
            self.scores(),
            newest_facts(self.run, self.results, self.chosen),
            retention_by_age(self.run, self.results),
            model_scores(self.run, self.results, self.chosen),
        ]
        return [table for table in tables if table.lines]

    def scores(self) -> Table:
        """The papers' table, with published numbers below ours."""
        columns, keys = self.shown, key_heads(self.results, "models")
        more = [head for head in CELL_COLUMNS if not self.chosen or head in self.chosen]
        as_published = bool(self.published) and self.intervals is None
        lines: list[Line] = []
        for block in blocks_of(self.results):
            best = best_means(columns, [(result.editor, result.estimates) for result in block])
            unedited = next((r.estimates for r in block if r.editor == BASELINE), None)
            for i, result in enumerate(block):
                own = by_paper(result.estimates) if as_published else result.estimates
                lines.append(
                    score_line(
                        key_entries(result, keys),
                        result.editor,
                        own,
                        columns,
                        result.document(self.run),
                        best=best,
                        failed=[s.key for s in columns if is_failure(s, own, unedited)],
                        more=more,
                    )
                )
                others = {later.editor for later in block[i + 1 :]}
                if result.series.regime.is_independent and result.editor not in others:
                    lines += self._published(result.editor, keys, more)
        notes = [f"Published: {published.source}." for published in self.published]
        notes += self._contradictions()
        marked = any(entry.failed for line in lines for entry in line.entries)
        if marked and (rules := failure_rules(columns)):
            meaning = "a clear failure (the whole 95% interval is below a bound)"
            notes.insert(0, f"!: {meaning}: {'; '.join(rules)}.")
        notes += [_PAPER_NOTE] if as_published or self.intervals == "paper" else []
        notes += notes_on_records(
            [score for score in self.run.scores if score not in self.run.model_scores],
            [(each.estimates, each.document(self.run)["records"]["done"]) for each in self.results],
        )
        notes += notes_on_intervals(lines)
        ranked = "its column"
        if len(keys) > 1:
            notes.insert(0, KEYS_NOTE)
            ranked = "its column in its regime and checkpoint"
        return Table(
            name="scores",
            title="Scores",
            head=score_heads(keys, columns, more),
            lines=tuple(lines) if columns or more else (),
            scores=scores_by_head(columns, self.run.scores),
            bold=f"best of {ranked}; the unedited model is not ranked",
            notes=tuple(notes),
            warnings=tuple(
                f"{result.name}: {outcome.summary}"
                for result, outcome in zip(self.last, self.outcomes, strict=True)
                if outcome
            ),
            keys=len(keys),
        )

    def _contradictions(self) -> list[str]:
        """Per regime, how many edits contradict others in the same model; at the end."""
        notes: dict[str, None] = {}
        for series in self.series:
            models: dict[tuple[int, int], list[int]] = {}
            for seed, rows in series.last.by_seed.items():
                for row in sorted(rows, key=lambda row: row.place):
                    model = row.case_id if series.regime.is_independent else row.group
                    models.setdefault((seed, model), []).append(row.case_id)
            warning = warning_of(
                contradictions((case, self.requests.get(case, ())) for case in cases)
                for cases in models.values()
            )
            if warning:
                notes[f"Edits {series.regime.label}: {warning}."] = None
        return list(notes)

    def _published(self, editor: str, keys: Sequence[str], more: Sequence[str]) -> list[Line]:
        """Lines of published numbers. Those that repeat an earlier line's are left out."""
        lines: list[Line] = []
        shown: dict[str, float] = {}
        for published in self.published:
            own = published.rows.get(editor, {})
            means = {key: estimate.mean for key, estimate in own.items()}
            if means.items() <= shown.items():
                continue
            shown |= means
            exact, unedited = _exact(own), published.rows.get(BASELINE)
            texts = {"edits": INDEPENDENT.label, "at": "1", "models": str(published.n_records)}
            line = score_line(
                [Entry(texts.get(head, f"  {editor}, {published.label}")) for head in keys],
                editor,
                own,
                self.shown,
                {"time": {}, "records": {"done": published.n_records, "failed": 0}},
                best={},
                failed=[s.key for s in self.shown if is_failure(s, exact, unedited)],
                more=more,
            )
            lines.append(dataclasses.replace(line, faint=True))
        return lines

    def comparisons(self, against: str | None = None) -> list[Compared]:
        """Each result with what it is compared with, and the differences of all scores.

        Args:
            against: As for :meth:`references`.
        """
        return compare(self.results, self.references(against), self.run.scores)

    def comparison_tables(self, against: str | None = None) -> list[Table]:
        """Paired differences, then their effect sizes and the records needed."""
        compared, paper = self.comparisons(against), self.intervals == "paper"
        return [
            differences_table(compared, self.shown, self.results, self.run.scores, by_paper=paper),
            effects_table(compared, self.shown, self.results, self.run.scores),
        ]

    def matrix(self) -> Table:
        """The summary score of each series minus that of each other series of its regime."""
        columns, n = self.columns, len(self.last)
        shown = bool(columns) and columns[0] == SUMMARY and 1 < n <= MOST_CELLS
        return matrix_table(self.last, self.run.scores, shown=shown)

    def by_relation(self) -> Table:
        """The first score of the table, by relation and series."""
        title, columns = "By relation", self.shown
        names = tuple(result.name for result in self.last)
        if not self.relations or not columns or len(names) > MOST_CELLS:
            return Table("relations", title, ("relation", *names), ())
        score = columns[0]
        groups = [
            {
                group: self._shown(own)
                for group, own in by_group(series.last, self.relations, self.run.scores).items()
            }
            for series in self.series
        ]
        lines = []
        names_of = self.relation_names
        present = {relation for series in groups for relation in series}
        for relation in sorted(present, key=lambda each: names_of.get(each, each).casefold()):
            cases = sum(other == relation for other in self.relations.values())
            numbers = [
                score_entry(score, series.get(relation, {}).get(score.key), shaded=True)
                for series in groups
            ]
            lines.append(
                Line((Entry(names_of.get(relation, relation)), *numbers, Entry(str(cases))))
            )
        notes = (
            f"{score.label} of each editor over the records of a relation.",
            *notes_on_intervals(lines),
        )
        head = ("relation", *names, "records")
        return Table("relations", f"{score.label} by relation", head, tuple(lines), notes=notes)

    def _shown(self, estimates: Estimates) -> Estimates:
        return by_paper(estimates) if self.intervals == "paper" else estimates


def _exact(estimates: Estimates) -> Estimates:
    """Published numbers without their intervals: failures are judged by the means, as printed."""
    return {
        key: dataclasses.replace(each, ci_low=each.mean, ci_high=each.mean)
        for key, each in estimates.items()
    }


def by_paper(estimates: Estimates) -> Estimates:
    """Estimates with the intervals of the papers' formula, where it applies."""
    return {key: estimate.by_paper for key, estimate in estimates.items()}


def sections_of(
    runs: Sequence[Run],
    published: Sequence[Sequence[Published]],
    intervals: Intervals | None = None,
    columns: Sequence[str] = (),
) -> list[Section]:
    """Read everything that the report of some runs needs.

    Args:
        runs: The runs; those with the same title get the start of a digest appended, and the
            procedures of metrics in which they differ.
        published: Published results to compare each run with.
        intervals: As in :class:`Section`.
        columns: The columns that tables show, by head or key; empty for all.

    Raises:
        StoreError: The store cannot be read.
    """
    distinct = distinct_titles(runs)
    each_run = zip(runs, distinct, published, strict=True)
    sections = [_section(run, title, own, intervals) for run, title, own in each_run]
    return [dataclasses.replace(section, chosen=tuple(columns)) for section in sections]


def _section(
    run: Run, title: str, published: Sequence[Published], intervals: Intervals | None
) -> Section:
    series = series_of(run)
    by_cell = {
        cell.fingerprint: each.last.by_seed[cell.seed] for each in series for cell in each.cells
    }
    rows = tuple(tuple(by_cell[cell.fingerprint]) for cell in run.cells)
    shown = by_paper if intervals == "paper" else dict
    results = tuple(
        dataclasses.replace(result, estimates=shown(result.estimates))
        for result in results_of(run, series)
    )
    return Section(
        run=run,
        title=title,
        labels=labels_of(run),
        rows=rows,
        estimates=tuple(
            shown(metrics_of(Sample.of_cell(cell, own), run.scores))
            for cell, own in zip(run.cells, rows, strict=True)
        ),
        series=tuple(series),
        results=results,
        requests=requests_of(run),
        published=tuple(published),
        warnings=tuple(_warnings(run, labels_of(run), rows)),
        relation_names=relation_names(run.dataset["name"], default_registry()),
        intervals=intervals,
    )


def _warnings(run: Run, labels: Sequence[str], rows: Sequence[Sequence[Row]]) -> list[str]:
    warnings = []
    for cell, label, own in zip(run.cells, labels, rows, strict=True):
        wanted = wanted_rows(run, cell)
        if len(own) < wanted:
            warnings.append(
                f"{label}: {wanted - len(own)} of {wanted} records are missing; run the same "
                "run-benchmark command again to resume."
            )
        failed = [row for row in own if row.status == "failed"]
        if failed:
            warnings.append(
                f"{label}: {len(failed)} of {wanted} records failed and are excluded from all "
                f"means; the first is case {failed[0].case_id}: {failed[0].error}"
            )
    return warnings
