"""Merging two stores. Rows that both have must agree.

The same machine, number of threads, torch and device compute the same bits. Other environments sum
in another order, and their numbers agree within :data:`TOLERANCE`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from editkit.benchmark.environment import environment_changes
from editkit.benchmark.store import Store
from editkit.errors import StoreError
from editkit.results import Row

__all__ = ["TOLERANCE", "Difference", "Merged", "merge"]

TOLERANCE = 1e-3
"""Largest difference of scores and details between environments; absolute, or relative to the
larger number if that is above 1."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest difference between two results of one case.

    Attributes:
        size: Absolute, or relative for numbers above 1; infinite for different texts, status or
            keys.
        case_id: The case.
        fingerprint: The cell.
        what: The score or detail, with both values.
    """

    size: float
    case_id: int
    fingerprint: str
    what: str


@dataclasses.dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        rows: Rows that were added, with their cells' fingerprints.
        compared: Number of rows that both stores had.
        elsewhere: How many of these were computed in different or unknown environments.
        largest: The largest difference among those; None if all are equal.
        environments: How the environments differ: ``torch_threads: 1, 4``.
    """

    rows: tuple[tuple[str, Row], ...]
    compared: int
    elsewhere: int
    largest: Difference | None
    environments: str


def merge(ours: Store, theirs: Store) -> Merged:
    """Add all cells and rows of ``theirs`` to ``ours``.

    Rows that both have must be equal if they were computed in the same environment, and agree
    within :data:`TOLERANCE` otherwise. Ours are kept.

    Raises:
        StoreError: Two rows disagree, or the other store is damaged. Nothing is added then.
    """
    new: list[tuple[str, Row]] = []
    compared = elsewhere = 0
    largest: Difference | None = None
    pairs: set[tuple[str, str]] = set()
    for fingerprint in theirs.cells():
        own = {row.case_id: row for row in ours.rows(fingerprint)}
        for row in theirs.rows(fingerprint):
            if row.case_id not in own:
                new.append((fingerprint, row))
                continue
            kept = own[row.case_id]
            compared += 1
            same_place = bool(row.environment) and row.environment == kept.environment
            elsewhere += not same_place
            differences = [
                Difference(size, row.case_id, fingerprint, what)
                for size, what in _differences(kept, row)
            ]
            if not differences:
                continue
            difference = max(differences, key=lambda each: each.size)
            if same_place or difference.size > TOLERANCE:
                raise _conflict(ours, theirs, difference, same_place=same_place)
            pairs.add((kept.environment, row.environment))
            if largest is None or difference.size > largest.size:
                largest = difference
    ours.copy_from(theirs, new)
    changes = _environment_changes(ours, theirs, pairs)
    return Merged(tuple(new), compared, elsewhere, largest, changes)


def _differences(first: Row, second: Row) -> Iterator[tuple[float, str]]:
    """Everything that differs between two results of a case, with the size of the difference."""
    if first.status != second.status:
        yield float("inf"), f"{first.status} against {second.status}"
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
        f"case {difference.case_id} of editor {editor!r} (cell {fingerprint[:12]}) differs "
        f"between {ours.path} and {theirs.path}: {difference.what}; expected {expected}, because "
        f"both were computed in {environments}.",
        hint="Recompute one of them with --fresh. Nothing of this store was merged.",
    )
