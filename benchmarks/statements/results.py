"""The results of an experiment, read from its output folder.

Intervals have the papers' formula, because statements compare with the papers' numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from editkit.benchmark.aggregate import (
    SUMMARY,
    Estimate,
    mean_with_interval,
    paired_differences,
)
from editkit.benchmark.store import Store, runs_in
from editkit.data_types import Score
from editkit.report.sections import Section, is_failure, sections_of
from editkit.results import STORE_FILE, Row

_SEPARATOR = "/"


class MissingResultsError(Exception):
    """The results of an experiment are missing or incomplete."""


@dataclasses.dataclass(frozen=True)
class Traces:
    """The facts of one average trace.

    Attributes:
        identity: Everything that they depend on, as stored.
        rows: The facts that the model knows, by case.
    """

    identity: Mapping[str, Any]
    rows: Mapping[int, Row]

    @property
    def after(self) -> str | None:
        """The editor whose edits were traced; None for the unedited model."""
        after = self.identity.get("after")
        return str(after["editor"]) if after else None

    def effects(self, kind: str, role: str) -> dict[int, list[float]]:
        """Effects by case, one per layer; facts without a token of that role are skipped."""
        key = f"{kind}{_SEPARATOR}{role}"
        return {case: row.details[key] for case, row in self.rows.items() if key in row.details}

    def mean(self, kind: str, role: str) -> list[Estimate]:
        """Average effects, one per layer.

        Raises:
            MissingResultsError: This kind or role was not traced.
        """
        rows = list(self.effects(kind, role).values())
        if not rows:
            raise MissingResultsError(f"{kind} at the {role}")
        return [mean_with_interval(column).by_paper for column in zip(*rows, strict=True)]

    def compared(
        self, first: tuple[str, str, int], second: tuple[str, str, int]
    ) -> tuple[float, float, Estimate]:
        """Two averages over the facts that have both effects, and their difference.

        Args:
            first: Kind of site, role of the token, and layer.
            second: The same of the effect to subtract.
        """
        ours, theirs = self.effects(*first[:2]), self.effects(*second[:2])
        both = sorted(ours.keys() & theirs.keys())
        if not both:
            raise MissingResultsError(f"{first[0]} and {second[0]}")
        pairs = [(ours[case][first[2]], theirs[case][second[2]]) for case in both]
        means = [sum(side) / len(both) for side in zip(*pairs, strict=True)]
        return means[0], means[1], mean_with_interval([a - b for a, b in pairs]).by_paper


class Results:
    """The output folder of one experiment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def section(self) -> Section:
        """The run with the most records.

        Raises:
            MissingResultsError: There is none.
        """
        self._check_store()
        runs = runs_in(self.folder)
        if not runs:
            raise MissingResultsError(self.folder.name)
        run = max(runs, key=lambda each: int(each.dataset["n_records"]))
        [section] = sections_of([run], [()])
        return section

    @cached_property
    def traces(self) -> list[Traces]:
        """All average traces, in the order they were started.

        Raises:
            MissingResultsError: There are none.
        """
        self._check_store()
        with Store(self.folder / STORE_FILE, read_only=True) as store:
            traces = [
                Traces(identity, _known(store.rows(fingerprint)))
                for fingerprint, identity in store.cells().items()
                if identity.get("kind") == "trace"
            ]
        if not any(each.rows for each in traces):
            raise MissingResultsError(self.folder.name)
        return [each for each in traces if each.rows]

    def _check_store(self) -> None:
        """A missing store means missing results; a damaged one is an error when it is read."""
        if not (self.folder / STORE_FILE).exists():
            raise MissingResultsError(self.folder.name)

    def score(self, key: str) -> Score:
        """The declaration of a score."""
        for score in (SUMMARY, *self.section.run.scores):
            if score.key == key:
                return score
        raise MissingResultsError(key)

    def cells(self, editor: str, **config: Any) -> list[int]:
        """Indices of an editor's cells with these configuration values."""
        return [
            place
            for place, cell in enumerate(self.section.run.cells)
            if cell.editor == editor
            and all(cell.config.get(field) == value for field, value in config.items())
        ]

    def best(self, key: str, places: Sequence[int]) -> int:
        """The index of the cell with the largest mean of a score.

        Raises:
            MissingResultsError: No cell has the score.
        """
        estimates = self.section.estimates
        having = [place for place in places if key in estimates[place]]
        if not having:
            raise MissingResultsError(key)
        return max(having, key=lambda place: estimates[place][key].mean)

    def estimate(self, key: str, place: int) -> Estimate:
        """A cell's mean with the interval of the papers' formula."""
        return self.section.estimates[place][key].by_paper

    def difference(self, key: str, first: int, second: int) -> Estimate:
        """A score of one cell minus that of another, paired over records."""
        rows = self.section.rows
        return paired_differences(rows[first], rows[second], self.section.run.scores)[key].by_paper

    def failures(self, place: int) -> set[str]:
        """The clear failures that reports mark for a cell: generalization, specificity."""
        unedited = self.section.unedited
        estimates = {key: each.by_paper for key, each in self.section.estimates[place].items()}
        return {
            score.failure.name
            for score in self.section.run.scores
            if score.failure and is_failure(score, estimates, unedited)
        }


def _known(rows: Sequence[Row]) -> dict[int, Row]:
    return {
        row.case_id: row for row in rows if row.status == "done" and row.scores.get("predicted")
    }
