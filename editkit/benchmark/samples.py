"""The rows behind one line of a table: which share a model, and what was in the models by then."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from editkit.benchmark.store import model_rows_of, rows_at
from editkit.regimes import Regime
from editkit.results import Cell, ModelRow, Row, Run
from editkit.storage.digests import canonical_json

__all__ = ["COLLAPSED", "Age", "Rows", "Sample", "Series", "State", "series_of"]

COLLAPSED = "/collapsed"
"""End of the keys of model scores that are above 0.5 if the model counts as collapsed."""

Key = TypeVar("Key", bound=Hashable)
Model = tuple[int, int]
"""Seed and group of a model."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Rows of records, and which of them share a model.

    Attributes:
        by_seed: The rows, by the seeds of their cells.
        shared: Whether facts share models. The rows of one seed and group are then one cluster;
            otherwise every row is a cluster of its own.
    """

    by_seed: Mapping[int, Sequence[Row]]
    shared: bool = False

    @classmethod
    def of(cls, rows: Rows) -> Sample:
        """Rows as a sample of records that each have a model of their own."""
        return rows if isinstance(rows, Sample) else cls({0: tuple(rows)})

    @classmethod
    def of_cell(cls, cell: Cell, rows: Iterable[Row]) -> Sample:
        """Rows of a cell; its regime decides whether they share models."""
        return cls({cell.seed: tuple(rows)}, shared=not cell.regime.is_independent)

    @property
    def rows(self) -> list[Row]:
        """All rows, seed by seed."""
        return [row for rows in self.by_seed.values() for row in rows]

    @property
    def n_models(self) -> int:
        """Number of models behind the scores."""
        return len({model for model, _ in self.done().values()})

    def where(self, keep: Callable[[Row], bool]) -> Sample:
        """The rows for which ``keep`` is true."""
        kept = {seed: tuple(filter(keep, rows)) for seed, rows in self.by_seed.items()}
        return Sample(kept, self.shared)

    def split(self, by: Callable[[Row], Key]) -> dict[Key, Sample]:
        """The rows by a key, each part as a sample."""
        parts: dict[Key, dict[int, list[Row]]] = {}
        for seed, rows in self.by_seed.items():
            for row in rows:
                parts.setdefault(by(row), {}).setdefault(seed, []).append(row)
        return {key: Sample(part, self.shared) for key, part in parts.items()}

    def done(self) -> dict[tuple[int, int], tuple[Hashable, Row]]:
        """The rows with scores, each with its model, by seed and case id, in this order."""
        done = {
            (seed, row.case_id): ((seed, row.group if self.shared else row.case_id), row)
            for seed, rows in self.by_seed.items()
            for row in rows
            if row.status == "done"
        }
        return dict(sorted(done.items(), key=lambda item: item[0]))


Rows = Iterable[Row] | Sample
"""Rows of records with a model each, or a sample in which records may share models."""


@dataclasses.dataclass(frozen=True)
class State:
    """Models after a number of facts: one line of a table.

    Attributes:
        at: Facts in each model; 1 in the regime ``independent``.
        facts: The rows of all facts so far.
        models: Scores of the models, by seed.
    """

    at: int
    facts: Sample
    models: Mapping[int, Sequence[ModelRow]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Age:
    """Facts that were written between ``low`` and ``high`` steps before they were scored."""

    low: int
    high: int

    @property
    def label(self) -> str:
        """``0``, ``1-9``, ``10-99``."""
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


@dataclasses.dataclass(frozen=True)
class Series:
    """An editor with a configuration in a regime, at every checkpoint.

    Attributes:
        cells: One cell; where facts share models, all cells that differ only in the seed.
        states: Its states, by number of facts, at least one; more than one only in sequences.
    """

    cells: tuple[Cell, ...]
    states: tuple[State, ...]

    @property
    def editor(self) -> str:
        """Name of the editor."""
        return self.cells[0].editor

    @property
    def regime(self) -> Regime:
        """How facts reach its models."""
        return self.cells[0].regime

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its cells."""
        return tuple(cell.seed for cell in self.cells)

    @property
    def last(self) -> Sample:
        """The last row of every record: a failed fact of a sequence counts once."""
        last = {
            seed: {row.case_id: row for state in self.states for row in _of_seed(state.facts, seed)}
            for seed in self.seeds
        }
        ordered = {seed: tuple(rows[case] for case in sorted(rows)) for seed, rows in last.items()}
        return Sample(ordered, not self.regime.is_independent)

    @property
    def last_models(self) -> dict[int, tuple[ModelRow, ...]]:
        """The last scores of every model, by seed."""
        last: dict[int, dict[int, ModelRow]] = {}
        for state in self.states:
            for seed, rows in state.models.items():
                last.setdefault(seed, {}).update({row.group: row for row in rows})
        return {seed: tuple(rows.values()) for seed, rows in last.items()}

    def newest(self, state: State) -> Sample:
        """The facts of the last step."""
        step = self.regime.step
        before = (state.at - 1) // step * step
        return state.facts.where(lambda row: row.place > before)

    def by_age(self, state: State) -> dict[Age, Sample]:
        """Facts by the number of steps since they were written: 0, 1 to 9, 10 to 99, ..."""
        step = self.regime.step

        def age_of(row: Row) -> Age:
            return _bin((state.at - 1) // step - (row.place - 1) // step)

        return dict(sorted(state.facts.split(age_of).items(), key=lambda item: item[0].low))

    def first_collapses(self, key: str) -> dict[Model, int | None]:
        """Facts in each model at its first checkpoint with a score above 0.5; None for never.

        Args:
            key: Key of a model score that ends with :data:`COLLAPSED`.
        """
        first: dict[Model, int | None] = {}
        for state in self.states:
            for seed, rows in state.models.items():
                for row in rows:
                    if key in row.scores and first.get((seed, row.group)) is None:
                        first[seed, row.group] = state.at if row.scores[key] > 0.5 else None
        return first


def _of_seed(sample: Sample, seed: int) -> Sequence[Row]:
    return sample.by_seed.get(seed, ())


def _bin(age: int) -> Age:
    low = 10 ** (len(str(age)) - 1)
    return Age(low, 10 * low - 1) if age else Age(0, 0)


def series_of(run: Run, cells: Sequence[Cell] | None = None) -> list[Series]:
    """Read the rows of some cells of a run, and pool those that differ only in the seed.

    Cells of the regime ``independent`` are not pooled: each is a series of its own.

    Args:
        run: The run.
        cells: Its cells by default.

    Raises:
        StoreError: The store cannot be read.
    """
    pools: dict[tuple[str, int], list[Cell]] = {}
    for cell in run.cells if cells is None else cells:
        pool, twin = _pool_of(cell), 0
        while any(other.seed == cell.seed for other in pools.get((pool, twin), ())):
            twin += 1  # the same settings with another content of a file
        pools.setdefault((pool, twin), []).append(cell)
    return [_series(run, pool) for pool in pools.values()]


def _pool_of(cell: Cell) -> str:
    if cell.regime.is_independent:
        return cell.fingerprint
    config = {field: value for field, value in cell.config.items() if field != "seed"}
    editor = [cell.editor, cell.preset, cell.distribution, cell.version]
    return canonical_json([*editor, config, cell.regime.to_dict()])


def _series(run: Run, cells: Sequence[Cell]) -> Series:
    regime = cells[0].regime
    rows = {cell.seed: rows_at(run, cell) for cell in cells}
    models = {cell.seed: model_rows_of(run, cell) for cell in cells}
    sequential = regime.kind == "sequential"
    marks = {0}
    if sequential:
        marks = {row.checkpoint for own in models.values() for row in own}
        marks |= {mark for by_mark in rows.values() for mark, own in by_mark.items() if own}
    states = []
    for mark in sorted(marks) or [regime.facts]:
        facts = {seed: tuple(by_mark.get(mark, ())) for seed, by_mark in rows.items()}
        own = {
            seed: tuple(row for row in each if row.checkpoint == mark or not sequential)
            for seed, each in models.items()
        }
        sample = Sample(facts, shared=not regime.is_independent)
        states.append(State(mark if sequential else regime.facts, sample, own))
    return Series(tuple(cells), tuple(states))
