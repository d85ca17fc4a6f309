"""One run of a store as the section of a report: its numbers, warnings and tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from editkit.benchmark.aggregate import (
    SUMMARY,
    Estimate,
    Sample,
    by_group,
    excludes_zero,
    metrics_of,
    outcomes,
    paired_differences,
    times_of,
)
from editkit.benchmark.published import Published
from editkit.benchmark.store import requests_of, rows_of
from editkit.data_types import EditRequest, Failure, Score
from editkit.editing.outcomes import BASELINE, Outcomes
from editkit.report.labels import labels_of, run_key, run_title
from editkit.report.tables import CELL_COLUMNS, Entry, Line, Table, score_entry
from editkit.results import Cell, Row, Run

__all__ = ["MOST_CELLS", "Section", "is_failure", "sections_of"]

MOST_CELLS = 16
"""Tables with one column per cell are omitted if there are more cells."""

Estimates = Mapping[str, Estimate]
"""Estimates by score key."""

_CLEAR = "the 95% interval excludes zero"


# ---------------------------------------------------------------- columns and marks


def score_columns(scores: Sequence[Score], cells: Iterable[Estimates]) -> tuple[Score, ...]:
    """The summary score and all labelled scores that at least one cell has."""
    present = {key for estimates in cells for key in estimates}
    return tuple(score for score in (SUMMARY, *scores) if score.label and score.key in present)


def best_means(
    columns: Sequence[Score], cells: Iterable[tuple[Cell, Estimates]]
) -> dict[str, float]:
    """The best mean of each column over at least two editors, the unedited model excluded."""
    ranked = [estimates for cell, estimates in cells if cell.editor != BASELINE]
    best = {}
    for score in columns:
        means = [estimates[score.key].mean for estimates in ranked if score.key in estimates]
        if len(means) > 1 and score.higher_is_better is not None:
            best[score.key] = max(means) if score.higher_is_better else min(means)
    return best


def cell_line(
    label: str,
    editor: str,
    estimates: Estimates,
    columns: Sequence[Score],
    document: Mapping[str, Any],
    *,
    best: Mapping[str, float],
    failed: Collection[str] = (),
) -> Line:
    """A cell as a line of the table of scores.

    Args:
        label: First entry.
        editor: The cell's editor; the unedited model gets no marks.
        estimates: Its scores.
        columns: The scores to print.
        document: Its entry in the ``--json`` document, for the columns after the scores.
        best: Best mean by score key; equal means are bold.
        failed: Keys of the scores that are marked as clear failures.
    """
    entries = []
    for score in columns:
        estimate, ranked = estimates.get(score.key), editor != BASELINE
        bold = ranked and estimate is not None and estimate.mean == best.get(score.key)
        entries.append(
            score_entry(score, estimate, bold=bold, failed=ranked and score.key in failed)
        )
    rest = (Entry(column(document)) for column in CELL_COLUMNS.values())
    return Line((Entry(label), *entries, *rest))


def score_heads(columns: Sequence[Score]) -> tuple[str, ...]:
    """Column heads that fit :func:`cell_line`."""
    return ("editor", *(score.label for score in columns), *CELL_COLUMNS)


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
        rows: Rows of each cell.
        estimates: Scores of each cell.
        requests: The edits by case id, if the store has them.
        published: Published results to compare with.
        warnings: Warnings about missing and failed records.
    """

    run: Run
    title: str
    labels: tuple[str, ...]
    rows: tuple[tuple[Row, ...], ...]
    estimates: tuple[Estimates, ...]
    requests: Mapping[int, EditRequest]
    published: tuple[Published, ...]
    warnings: tuple[str, ...]

    @property
    def columns(self) -> tuple[Score, ...]:
        """The scores that tables show."""
        return score_columns(self.run.scores, self.estimates)

    @property
    def outcomes(self) -> tuple[Outcomes, ...]:
        """For each cell, which of its edits did not work."""
        cells = zip(self.run.cells, self.rows, strict=True)
        return tuple(outcomes(cell.editor, rows, self.run.scores) for cell, rows in cells)

    @property
    def unedited(self) -> Estimates | None:
        """The scores of the unedited model, if the run has it."""
        cells = zip(self.run.cells, self.estimates, strict=True)
        return next((scores for cell, scores in cells if cell.editor == BASELINE), None)

    @property
    def relations(self) -> dict[int, str]:
        """The relation of each case that has one."""
        return {
            case: request.relation_id
            for case, request in self.requests.items()
            if request.relation_id
        }

    def reference(self, against: str | None = None) -> int | None:
        """Index of the cell that the others are compared with.

        Args:
            against: Its label or editor; by default the best cell in the first column.
        """
        if against is not None:
            for names in (self.labels, tuple(cell.editor for cell in self.run.cells)):
                if against in names:
                    return names.index(against)
            return None
        ranked = [i for i, cell in enumerate(self.run.cells) if cell.editor != BASELINE]
        for score in self.columns:
            having = [i for i in ranked if score.key in self.estimates[i]]
            if having:
                return max(having, key=lambda i: self.estimates[i][score.key].mean)
        return None

    def tables(self, against: str | None = None) -> list[Table]:
        """The tables of all formats; tables without lines are omitted.

        Args:
            against: Editor that the others are compared with; by default the best one.
        """
        tables = [self.scores(), self.differences(against), self.by_relation()]
        return [table for table in tables if table.lines]

    def scores(self) -> Table:
        """The papers' table, with published numbers below ours."""
        columns, unedited = self.columns, self.unedited
        best = best_means(columns, zip(self.run.cells, self.estimates, strict=True))
        lines: list[Line] = []
        for i, cell in enumerate(self.run.cells):
            estimates = self.estimates[i]
            failed = [score.key for score in columns if is_failure(score, estimates, unedited)]
            lines.append(
                cell_line(
                    self.labels[i],
                    cell.editor,
                    estimates,
                    columns,
                    self._document(i),
                    best=best,
                    failed=failed,
                )
            )
            if cell.editor not in {later.editor for later in self.run.cells[i + 1 :]}:
                lines += self._published(cell.editor)
        notes = [f"Published: {published.source}." for published in self.published]
        if rules := failure_rules(columns):
            meaning = "a clear failure (the whole 95% interval is below a bound)"
            notes.insert(0, f"!: {meaning}: {'; '.join(rules)}.")
        return Table(
            name="scores",
            title="Scores",
            head=score_heads(columns),
            lines=tuple(lines),
            bold="best of its column; the unedited model is not ranked",
            notes=tuple(notes),
            warnings=tuple(
                f"{label}: {outcome.summary}"
                for label, outcome in zip(self.labels, self.outcomes, strict=True)
                if outcome
            ),
        )

    def _document(self, i: int) -> dict[str, Any]:
        """What :data:`CELL_COLUMNS` needs of a cell, with the number of records it should have."""
        failed = sum(row.status == "failed" for row in self.rows[i])
        counts = {
            "done": len(self.rows[i]) - failed,
            "failed": failed,
            "wanted": int(self.run.dataset["n_records"]),
        }
        return {"time": times_of(self.rows[i]), "records": counts}

    def _published(self, editor: str) -> list[Line]:
        lines = []
        for published in self.published:
            if editor in published.rows:
                exact = {
                    name: {key: Estimate(mean, mean, mean, 0) for key, mean in row.items()}
                    for name, row in published.rows.items()
                }
                own, unedited = exact[editor], exact.get(BASELINE)
                line = cell_line(
                    f"  {editor}, published",
                    editor,
                    own,
                    self.columns,
                    {"time": {}, "records": {"done": published.n_records, "failed": 0}},
                    best={},
                    failed=[s.key for s in self.columns if is_failure(s, own, unedited)],
                )
                lines.append(dataclasses.replace(line, faint=True))
        return lines

    def differences(self, against: str | None = None) -> Table:
        """Each cell minus the reference, over the records that both have."""
        title, head = "Paired differences", ("editor", *(score.label for score in self.columns))
        i = self.reference(against)
        if i is None or len(self.run.cells) < 2:
            return Table("differences", title, head, ())
        lines = []
        for j in range(len(self.run.cells)):
            if j != i:
                minus = paired_differences(self.rows[j], self.rows[i], self.run.scores)
                entries = (
                    _difference(score, minus[score.key]) if score.key in minus else Entry("-")
                    for score in self.columns
                )
                lines.append(Line((Entry(self.labels[j]), *entries)))
        return Table(
            name="differences",
            title=f"{title} to {self.labels[i]}",
            head=head,
            lines=tuple(lines),
            bold=_CLEAR,
            notes=(
                f"Each editor minus {self.labels[i]}, over the records that both have. The "
                "interval of S comes from a paired bootstrap.",
            ),
        )

    def matrix(self) -> Table:
        """The summary score of each cell minus that of each other cell."""
        head, lines = ("minus →", *self.labels), []
        if self.columns and self.columns[0] == SUMMARY and 1 < len(self.labels) <= MOST_CELLS:
            for i, label in enumerate(self.labels):
                entries = [Entry(label)]
                for j in range(len(self.labels)):
                    minus = paired_differences(self.rows[i], self.rows[j], self.run.scores)
                    empty = i == j or SUMMARY.key not in minus
                    entries.append(Entry("") if empty else _difference(SUMMARY, minus[SUMMARY.key]))
                lines.append(Line(tuple(entries)))
        note = "S of the row's editor minus S of the column's, over the records that both have."
        return Table(
            name="matrix",
            title="Paired differences of S",
            head=head,
            lines=tuple(lines),
            bold=_CLEAR,
            notes=(note,),
        )

    def by_relation(self) -> Table:
        """The first score of the table, by relation and cell."""
        title, columns = "By relation", self.columns
        if not self.relations or not columns or len(self.labels) > MOST_CELLS:
            return Table("relations", title, ("relation", *self.labels), ())
        score = columns[0]
        groups = [by_group(rows, self.relations, self.run.scores) for rows in self.rows]
        lines = []
        for relation in sorted({relation for cell in groups for relation in cell}):
            cases = sum(other == relation for other in self.relations.values())
            numbers = [
                score_entry(score, cell.get(relation, {}).get(score.key), shaded=True)
                for cell in groups
            ]
            lines.append(Line((Entry(relation), *numbers, Entry(str(cases)))))
        note = f"{score.label} of each editor over the records of a relation."
        head = ("relation", *self.labels, "records")
        return Table("relations", f"{score.label} by relation", head, tuple(lines), notes=(note,))


def sections_of(runs: Sequence[Run], published: Sequence[Sequence[Published]]) -> list[Section]:
    """Read everything that the report of some runs needs.

    Args:
        runs: The runs; runs with the same title get the start of a digest appended.
        published: Published results to compare each run with.

    Raises:
        StoreError: The store cannot be read.
    """
    titles = [run_title(run) for run in runs]
    distinct = [
        f"{title} [{run_key(run)}]" if titles.count(title) > 1 else title
        for title, run in zip(titles, runs, strict=True)
    ]
    return [_section(*each) for each in zip(runs, distinct, published, strict=True)]


def _section(run: Run, title: str, published: Sequence[Published]) -> Section:
    rows = tuple(tuple(rows_of(run, cell)) for cell in run.cells)
    labels = labels_of(run)
    return Section(
        run=run,
        title=title,
        labels=labels,
        rows=rows,
        estimates=tuple(
            metrics_of(Sample.of_cell(cell, own), run.scores)
            for cell, own in zip(run.cells, rows, strict=True)
        ),
        requests=requests_of(run),
        published=tuple(published),
        warnings=tuple(_warnings(run, labels, rows)),
    )


def _difference(score: Score, difference: Estimate) -> Entry:
    level = 0.5 + difference.mean / 2
    entry = score_entry(score, difference, signed=True, bold=excludes_zero(difference))
    return dataclasses.replace(entry, level=min(max(level, 0.0), 1.0))


def _warnings(run: Run, labels: Sequence[str], rows: Sequence[Sequence[Row]]) -> list[str]:
    wanted = int(run.dataset["n_records"])
    warnings = []
    for label, own in zip(labels, rows, strict=True):
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
