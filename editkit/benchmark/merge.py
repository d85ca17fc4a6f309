"""Merging two stores. Rows that both have must agree.

The same machine, number of threads, torch and device compute the same bits. Other environments sum
in another order, and their numbers agree within :data:`TOLERANCE`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from editkit.benchmark.environment import environment_changes
from editkit.benchmark.store import NewRows, Store
from editkit.errors import StoreError
from editkit.results import ModelRow, Row

__all__ = ["TOLERANCE", "Difference", "Merged", "merge"]

TOLERANCE = 1e-3
"""Largest difference of scores and details between environments; absolute, or relative to the
larger number if that is above 1."""


AnyRow = TypeVar("AnyRow", Row, ModelRow)
Key = tuple[int, int]  # checkpoint, and case or model


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest difference between two results of one case, or of one model.

    Attributes:
        size: Absolute, or relative for numbers above 1; infinite for different texts, status or
            keys.
        where: The case or model: ``case 3``, ``model 0 at 100 facts``.
        fingerprint: The cell.
        what: The score or detail, with both values.
    """

    size: float
    where: str
    fingerprint: str
    what: str


@dataclasses.dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        rows: Last rows of records that were added, with their cells' fingerprints.
        added: Number of rows that were added, those of earlier checkpoints and of models included.
        compared: Number of rows that both stores had.
        elsewhere: How many of these were computed in different or unknown environments.
        largest: The largest difference among those; None if all are equal.
        environments: How the environments differ: ``torch_threads: 1, 4``.
    """

    rows: tuple[tuple[str, Row], ...]
    added: int
    compared: int
    elsewhere: int
    largest: Difference | None
    environments: str


@dataclasses.dataclass
class _Comparison:
    """Compares the rows that both stores have, table by table."""

    ours: Store
    theirs: Store
    compared: int = 0
    elsewhere: int = 0
    largest: Difference | None = None
    environments: set[tuple[str, str]] = dataclasses.field(default_factory=set)

    def new(self, table: str, fingerprint: str, theirs: Mapping[Key, AnyRow]) -> list[AnyRow]:
        """Their rows that ours lack; raises if others disagree.

        Of ours, only the rows that both have are read, so that merging takes a time that does not
        grow with the store that it merges into.
        """
        keys: dict[tuple[int, ...], Key] = {
            key[1:] if table == "rows" else key: key for key in theirs
        }
        ours = self.ours.with_keys(table, fingerprint, keys)
        for key, row in ours.items():
            self._compare(fingerprint, row, theirs[keys[key]])
        return [theirs[place] for key, place in keys.items() if key not in ours]

    def _compare(self, fingerprint: str, kept: AnyRow, row: AnyRow) -> None:
        self.compared += 1
        same_place = bool(row.environment) and row.environment == kept.environment
        self.elsewhere += not same_place
        differences = [
            Difference(size, _where(row), fingerprint, what)
            for size, what in _differences(kept, row, same_place=same_place)
        ]
        if not differences:
            return
        difference = max(differences, key=lambda each: each.size)
        if same_place or difference.size > TOLERANCE:
            raise _conflict(self.ours, self.theirs, difference, same_place=same_place)
        self.environments.add((kept.environment, row.environment))
        if self.largest is None or difference.size > self.largest.size:
            self.largest = difference


def merge(ours: Store, theirs: Store) -> Merged:
    """Add all cells and rows of ``theirs`` to ``ours``: of records, at all checkpoints, of models.

    Rows that both have must be equal if they were computed in the same environment, and agree
    within :data:`TOLERANCE` otherwise. Ours are kept.

    Raises:
        StoreError: Two rows disagree, or the other store is damaged. Nothing is added then.
    """
    both = _Comparison(ours, theirs)
    added: list[NewRows] = []
    for cell in theirs.cells():
        rows = both.new("rows", cell, _last(theirs.rows(cell)))
        history = both.new("history", cell, _earlier(theirs.history(cell)))
        models = both.new("models", cell, _by_model(theirs.models(cell)))
        added.append(NewRows(cell, rows, history, models))
    ours.copy_from(theirs, added)
    return Merged(
        rows=tuple((new.fingerprint, row) for new in added for row in new.rows),
        added=sum(len(new.rows) + len(new.history) + len(new.models) for new in added),
        compared=both.compared,
        elsewhere=both.elsewhere,
        largest=both.largest,
        environments=_environment_changes(ours, theirs, both.environments),
    )


def _last(rows: Sequence[Row]) -> dict[Key, Row]:
    return {(0, row.case_id): row for row in rows}  # one row of a case, at whatever checkpoint


def _earlier(rows: Sequence[Row]) -> dict[Key, Row]:
    return {(row.checkpoint, row.case_id): row for row in rows}


def _by_model(rows: Sequence[ModelRow]) -> dict[Key, ModelRow]:
    return {(row.checkpoint, row.group): row for row in rows}


def _where(row: Row | ModelRow) -> str:
    name = f"case {row.case_id}" if isinstance(row, Row) else f"model {row.group}"
    return f"{name} at {row.checkpoint} facts" if row.checkpoint else name


def _differences(
    first: Row | ModelRow, second: Row | ModelRow, *, same_place: bool
) -> Iterator[tuple[float, str]]:
    """Everything that differs between two results, with the size of the difference."""
    if isinstance(first, Row) and isinstance(second, Row):
        if first.status != second.status:
            yield float("inf"), f"{first.status} against {second.status}"
        if (first.group, first.place) != (second.group, second.place):
            yield float("inf"), "its place in a model"
        if first.checkpoint != second.checkpoint:
            yield float("inf"), "its checkpoint"
    if isinstance(first, ModelRow) and isinstance(second, ModelRow):
        if same_place and first.delta != second.delta:  # elsewhere, the last digits may differ
            yield float("inf"), "its delta"
        for name in sorted(first.errors.keys() ^ second.errors.keys()):
            yield float("inf"), f"error of {name}"
    for key in sorted({*first.scores, *second.scores}):
        ours, theirs = first.scores.get(key), second.scores.get(key)
        if ours != theirs:
            yield _distance([ours], [theirs]), f"{key} {ours} against {theirs}"
    for key in sorted({*first.details, *second.details}):
        if first.details.get(key) != second.details.get(key):
            yield _distance(first.details.get(key), second.details.get(key)), key
    for key in sorted({*first.texts, *second.texts}):
        if first.texts.get(key) != second.texts.get(key):
            yield float("inf"), key


def _distance(first: Any, second: Any) -> float:
    """The largest difference between two lists of numbers; infinite if they do not correspond."""
    if first is None or second is None or len(first) != len(second):
        return float("inf")
    if any(number is None for number in (*first, *second)):
        return float("inf")
    pairs = zip(first, second, strict=True)
    return max((abs(a - b) / max(1.0, abs(a), abs(b)) for a, b in pairs), default=0.0)


def _environment_changes(ours: Store, theirs: Store, pairs: set[tuple[str, str]]) -> str:
    known, other = ours.environments(), theirs.environments()
    changes = dict.fromkeys(
        change
        for first, second in sorted(pairs)
        for change in environment_changes(known.get(first), other.get(second))
    )
    return "; ".join(changes)


def _conflict(
    ours: Store, theirs: Store, difference: Difference, *, same_place: bool
) -> StoreError:
    fingerprint = difference.fingerprint
    described = ours.known_cell(fingerprint) or theirs.known_cell(fingerprint) or {}
    cell = described.get("cell")
    editor = cell.get("editor", "?") if isinstance(cell, dict) else "?"
    if same_place:
        expected, environments = "exactly equal results", "the same environment"
    else:
        expected, environments = f"a difference of at most {TOLERANCE:g}", "different environments"
    return StoreError(
        f"{difference.where} of editor {editor!r} (cell {fingerprint[:12]}) differs "
        f"between {ours.path} and {theirs.path}: {difference.what}; expected {expected}, because "
        f"both were computed in {environments}.",
        hint="Recompute one of them with --fresh. Nothing of this store was merged.",
    )
