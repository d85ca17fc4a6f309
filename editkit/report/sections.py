"""From a run in the store to the tables of its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from editkit.benchmark.aggregate import (
    SUMMARY,
    Estimate,
    by_group,
    excludes_zero,
    metrics_of,
    outcomes,
    paired_differences,
)
from editkit.benchmark.published import Published
from editkit.benchmark.store import requests_of, rows_of
from editkit.data_types import EditRequest, Score
from editkit.editing.outcomes import Outcomes
from editkit.report.grid import Entry, Grid, Line, number
from editkit.report.judging import BASELINE, best_of, is_failure, rules
from editkit.report.labels import heading, labels_of, run_key, seconds
from editkit.results import Cell, Row, Run

MOST_CELLS = 16
"""Tables with a column for each cell are left out where there are more."""

Estimates = Mapping[str, Estimate]


@dataclasses.dataclass(frozen=True)
class Section:
    """One run: what is told about it, and what it is told from.

    Attributes:
        run: The run.
        title: What it is a run of.
        labels: Name of each cell.
        rows: Rows of each cell.
        estimates: Scores of each cell.
        requests: The edits by case, as far as they are known.
        published: Published results to compare with.
        warnings: What a reader must know before the tables.
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
        """The scores that tables show: those with a label that some cell has."""
        return tuple(
            score
            for score in (SUMMARY, *self.run.scores)
            if score.label and any(score.key in found for found in self.estimates)
        )

    @property
    def outcomes(self) -> tuple[Outcomes, ...]:
        """For each cell, which of its edits did not work."""
        cells = zip(self.run.cells, self.rows, strict=True)
        return tuple(outcomes(cell.editor, rows, self.run.scores) for cell, rows in cells)

    @property
    def troubles(self) -> tuple[str, ...]:
        """One line for each cell of which some edits did not work."""
        cells = zip(self.labels, self.outcomes, strict=True)
        return tuple(f"{label}: {found.summary}" for label, found in cells if found)

    @property
    def unedited(self) -> Estimates | None:
        """The scores of the unedited model, where the run has it."""
        cells = zip(self.run.cells, self.estimates, strict=True)
        return next((found for cell, found in cells if cell.editor == BASELINE), None)

    @property
    def relations(self) -> dict[int, str]:
        """The relation of each case, where it is known."""
        return {
            case: request.relation_id
            for case, request in self.requests.items()
            if request.relation_id
        }

    def reference(self, against: str | None = None) -> int | None:
        """The place of the cell that others are compared with.

        Args:
            against: Its label or editor; by default the one with the best first column.
        """
        if against is not None:
            for names in (self.labels, tuple(cell.editor for cell in self.run.cells)):
                if against in names:
                    return names.index(against)
            return None
        rivals = [i for i, cell in enumerate(self.run.cells) if cell.editor != BASELINE]
        for score in self.columns:
            having = [i for i in rivals if score.key in self.estimates[i]]
            if having:
                return max(having, key=lambda i: self.estimates[i][score.key].mean)
        return None

    def grids(self, against: str | None = None) -> list[Grid]:
        """All tables that the run has matter for.

        Args:
            against: Editor that the others are compared with; the best one by default.
        """
        grids = [self.scores(), self.differences(against), self.by_relation()]
        return [grid for grid in grids if grid.lines]

    def scores(self) -> Grid:
        """The papers' table, with published numbers below our own."""
        competing = [
            found
            for cell, found in zip(self.run.cells, self.estimates, strict=True)
            if cell.editor != BASELINE
        ]
        best = {score.key: best_of(score, competing) for score in self.columns}
        lines: list[Line] = []
        for i, cell in enumerate(self.run.cells):
            entries = [Entry(self.labels[i])]
            entries += self._numbers(cell, self.estimates[i], self.unedited, best)
            entries += [Entry(seconds(self.rows[i])), Entry(self._records(i))]
            lines.append(Line(tuple(entries)))
            if cell.editor not in {later.editor for later in self.run.cells[i + 1 :]}:
                lines += self._published(cell)
        head = ("editor", *(score.label for score in self.columns), "s/edit", "records")
        return Grid("scores", "Scores", head, tuple(lines), self._notes(), self.troubles)

    def _numbers(
        self,
        cell: Cell,
        estimates: Estimates,
        unedited: Estimates | None,
        best: Mapping[str, float | None],
    ) -> list[Entry]:
        own = cell.editor != BASELINE
        return [
            number(
                score,
                estimates.get(score.key),
                bold=own
                and score.key in estimates
                and estimates[score.key].mean == best[score.key],
                failed=own and is_failure(score, estimates, unedited),
            )
            for score in self.columns
        ]

    def _published(self, cell: Cell) -> list[Line]:
        lines = []
        for published in self.published:
            if cell.editor in published.rows:
                exact = {
                    editor: {key: Estimate(mean, mean, mean, 0) for key, mean in row.items()}
                    for editor, row in published.rows.items()
                }
                unmarked = dict.fromkeys((score.key for score in self.columns), None)
                numbers = self._numbers(cell, exact[cell.editor], exact.get(BASELINE), unmarked)
                entries = [Entry(f"  {cell.editor}, published"), *numbers]
                entries += [Entry("-"), Entry(f"{published.n_records}")]
                lines.append(Line(tuple(entries), faint=True))
        return lines

    def _notes(self) -> tuple[str, ...]:
        notes = [
            "Bold (* in plain text): the best of its column; the unedited model does not compete."
        ]
        if judged := rules(self.columns):
            notes.append(
                f"!: a clear failure, its whole 95% interval below a bound: {'; '.join(judged)}."
            )
        notes += [f"Published: {published.source}." for published in self.published]
        return tuple(notes)

    def _records(self, i: int) -> str:
        rows, wanted = self.rows[i], int(self.run.dataset["n_records"])
        failed = sum(row.status == "failed" for row in rows)
        of = f" of {wanted}" if len(rows) < wanted else ""
        return f"{len(rows) - failed}{of}" + (f" ({failed} failed)" if failed else "")

    def differences(self, against: str | None = None) -> Grid:
        """Every cell against one of them, over the records that both have."""
        title, head = "Paired differences", ("editor", *(score.label for score in self.columns))
        i = self.reference(against)
        if i is None or len(self.run.cells) < 2:
            return Grid("differences", title, head, ())
        lines = []
        for j in range(len(self.run.cells)):
            if j != i:
                found = paired_differences(self.rows[j], self.rows[i], self.run.scores)
                lines.append(Line((Entry(self.labels[j]), *self._differences(found))))
        note = (
            f"Each editor minus {self.labels[i]}, on the records that both have; bold (* in "
            "plain text) where the 95% interval leaves out zero. S by a paired bootstrap."
        )
        return Grid("differences", f"{title} to {self.labels[i]}", head, tuple(lines), (note,))

    def matrix(self) -> Grid:
        """The summary score of each cell minus that of each other one."""
        head, lines = ("minus →", *self.labels), []
        if self.columns and self.columns[0] == SUMMARY and 1 < len(self.labels) <= MOST_CELLS:
            for i, label in enumerate(self.labels):
                entries = [Entry(label)]
                for j in range(len(self.labels)):
                    found = paired_differences(self.rows[i], self.rows[j], self.run.scores)
                    same = i == j or SUMMARY.key not in found
                    entries.append(Entry("") if same else _difference(SUMMARY, found[SUMMARY.key]))
                lines.append(Line(tuple(entries)))
        note = "S of the line's editor minus S of the column's, on the records that both have."
        return Grid("matrix", "Paired differences of S", head, tuple(lines), (note,))

    def _differences(self, found: Estimates) -> list[Entry]:
        return [
            _difference(score, found[score.key]) if score.key in found else Entry("-")
            for score in self.columns
        ]

    def by_relation(self) -> Grid:
        """The first score of the table, by relation and cell."""
        title, columns = "By relation", self.columns
        if not self.relations or not columns or len(self.labels) > MOST_CELLS:
            return Grid("relations", title, ("relation", *self.labels), ())
        score = columns[0]
        broken = [by_group(rows, self.relations, self.run.scores) for rows in self.rows]
        lines = []
        for relation in sorted({relation for found in broken for relation in found}):
            here = [found.get(relation, {}) for found in broken]
            cases = sum(other == relation for other in self.relations.values())
            numbers = [number(score, found.get(score.key), shaded=True) for found in here]
            lines.append(Line((Entry(relation), *numbers, Entry(str(cases)))))
        note = f"{score.label} of each editor over the records of a relation."
        head = ("relation", *self.labels, "records")
        return Grid("relations", f"{score.label} by relation", head, tuple(lines), (note,))


def sections_of(runs: Sequence[Run], published: Sequence[Sequence[Published]]) -> list[Section]:
    """Runs with everything that their report is made from.

    Args:
        runs: The runs; those that their titles do not tell apart get the start of a digest.
        published: For each run, what it may be compared with.

    Raises:
        StoreError: The store cannot be read.
    """
    titles = [heading(run) for run in runs]
    keys = [run_key(run) for run in runs]
    told = [
        f"{title} [{key}]" if titles.count(title) > 1 else title
        for title, key in zip(titles, keys, strict=True)
    ]
    return [_section(*each) for each in zip(runs, told, published, strict=True)]


def _section(run: Run, title: str, published: Sequence[Published]) -> Section:
    rows = tuple(tuple(rows_of(run, cell)) for cell in run.cells)
    labels = labels_of(run)
    return Section(
        run=run,
        title=title,
        labels=labels,
        rows=rows,
        estimates=tuple(metrics_of(found, run.scores) for found in rows),
        requests=requests_of(run),
        published=tuple(published),
        warnings=tuple(_warnings(run, labels, rows)),
    )


def _difference(score: Score, difference: Estimate) -> Entry:
    level = 0.5 + difference.mean / 2
    entry = number(score, difference, signed=True, bold=excludes_zero(difference))
    return dataclasses.replace(entry, level=min(max(level, 0.0), 1.0))


def _warnings(run: Run, labels: Sequence[str], rows: Sequence[Sequence[Row]]) -> list[str]:
    wanted = int(run.dataset["n_records"])
    warnings = []
    for label, found in zip(labels, rows, strict=True):
        if len(found) < wanted:
            warnings.append(
                f"{label}: {wanted - len(found)} of {wanted} records are missing; the same "
                "run-benchmark command goes on with them."
            )
        failed = [row for row in found if row.status == "failed"]
        if failed:
            warnings.append(
                f"{label}: {len(failed)} of {wanted} records failed and are in no mean; the first "
                f"is case {failed[0].case_id}: {failed[0].error}"
            )
    return warnings
