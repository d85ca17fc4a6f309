"""Comparing the rows of two stores, and how closely results of two environments must agree.

The same machine, number of threads, torch and device give the same bits. Elsewhere sums are formed
in another order, and numbers agree within :data:`TOLERANCE`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from editkit.errors import StoreError
from editkit.results import Row

if TYPE_CHECKING:
    from editkit.benchmark.store import Store

__all__ = ["TOLERANCE", "Difference", "Merged", "difference", "merge"]

TOLERANCE = 1e-3
"""Largest difference, absolute or relative to the larger number, of scores and details that were
computed in different environments."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest difference between two stores' results of one case.

    Attributes:
        size: Absolute, or relative for numbers above 1; infinite where texts, status or keys
            differ.
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
    """What another store adds to one.

    Attributes:
        rows: New rows with the fingerprints of their cells.
        compared: How many rows both had.
        elsewhere: How many of these were computed in another environment, or in an unknown one.
        largest: The largest difference among the latter; None where all are equal.
        environments: What differs between the environments, as ``torch_threads 1, 4``.
    """

    rows: tuple[tuple[str, Row], ...]
    compared: int
    elsewhere: int
    largest: Difference | None
    environments: str


def merge(ours: Store, theirs: Store) -> Merged:
    """Compare two stores.

    Raises:
        StoreError: They differ more than they may.
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
            found = difference(fingerprint, kept, row)
            if found is None:
                continue
            if same_place or found.size > TOLERANCE:
                raise _conflict(ours, theirs, found, same_place=same_place)
            pairs.add((kept.environment, row.environment))
            if largest is None or found.size > largest.size:
                largest = found
    differing = _differing_environments(ours, theirs, pairs)
    return Merged(tuple(new), compared, elsewhere, largest, differing)


def difference(fingerprint: str, first: Row, second: Row) -> Difference | None:
    """The largest difference between two results of a case; None where they are equal."""
    found = max(_differences(first, second), key=lambda each: each[0], default=None)
    return None if found is None else Difference(found[0], first.case_id, fingerprint, found[1])


def _differences(first: Row, second: Row) -> Iterator[tuple[float, str]]:
    if first.status != second.status:
        yield float("inf"), f"{first.status} against {second.status}"
    for key in sorted({*first.scores, *second.scores}):
        ours, theirs = first.scores.get(key), second.scores.get(key)
        if ours != theirs:
            yield _distance([ours], [theirs]), f"{key} {ours} against {theirs}"
    for key in sorted({*first.details, *second.details}):
        ours_of, theirs_of = first.details.get(key), second.details.get(key)
        if ours_of != theirs_of:
            yield _distance(ours_of, theirs_of), key
    for key in sorted({*first.texts, *second.texts}):
        if first.texts.get(key) != second.texts.get(key):
            yield float("inf"), key


def _distance(first: Any, second: Any) -> float:
    """Of two lists of numbers; infinite where they are not comparable."""
    if first is None or second is None or len(first) != len(second):
        return float("inf")
    if any(number is None for number in (*first, *second)):
        return float("inf")
    pairs = zip(first, second, strict=True)
    return max((abs(a - b) / max(1.0, abs(a), abs(b)) for a, b in pairs), default=0.0)


def _differing_environments(ours: Store, theirs: Store, pairs: set[tuple[str, str]]) -> str:
    """What two environments say differently; empty where nothing was to be compared."""
    known, other = ours.environments(), theirs.environments()
    said = dict.fromkeys(
        description
        for first, second in sorted(pairs)
        for description in environment_changes(known.get(first), other.get(second))
    )
    return "; ".join(said)


def environment_changes(
    first: Mapping[str, Any] | None, second: Mapping[str, Any] | None
) -> list[str]:
    """Where two environments differ: ``torch_threads: 1, 4``."""
    if first is None or second is None:
        return ["what some rows were computed with is not recorded"]
    return [
        f"{key}: {first.get(key)}, {second.get(key)}"
        for key in sorted({*first, *second})
        if first.get(key) != second.get(key)
    ]


def _conflict(ours: Store, theirs: Store, found: Difference, *, same_place: bool) -> StoreError:
    described = ours.known_cell(found.fingerprint) or theirs.known_cell(found.fingerprint) or {}
    cell = described.get("cell")
    editor = cell.get("editor", "?") if isinstance(cell, dict) else "?"
    allowed = "exactly equal results" if same_place else f"a difference of at most {TOLERANCE:g}"
    return StoreError(
        f"case {found.case_id} of editor {editor!r} (cell {found.fingerprint[:12]}) differs "
        f"between {ours.path} and {theirs.path}: {found.what}; expected {allowed}, as they were "
        f"computed in {'one environment' if same_place else 'different environments'}.",
        hint="Compute one of them again with --fresh. Nothing of this store was merged.",
    )
