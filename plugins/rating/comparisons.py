"""Which texts are compared, in which order, and which of the two stands on the left."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from editkit import EditRequest, UsageError
from editkit.benchmark.store import requests_of, rows_of, runs_in
from editkit.report.generations import cells_by_label, texts_of
from editkit.results import Cell, Run

_BASELINE = "none"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two texts on one prompt.

    Attributes:
        number: Place in the order, from 0: all that a browser is told of what this is.
        case_id: The case.
        place: Which of the case's texts.
        request: The edit that both editors made.
        cells: Fingerprints, left and right.
        texts: The texts, left and right.
    """

    number: int
    case_id: int
    place: int
    request: EditRequest
    cells: tuple[str, str]
    texts: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two cells of one run, by label."""

    run: Run
    labels: tuple[str, str]
    cells: tuple[Cell, Cell]


def chosen_pair(out: Path, editors: Sequence[str]) -> Pair:
    """The two editors whose texts are compared, in the latest run that has both.

    Args:
        out: Output folder of the runs.
        editors: Two names or labels; none: the only two that there are, but for the unedited model.

    Raises:
        UsageError: It is not clear which two.
        StoreError: There is no store, or it cannot be read.
    """
    if len(editors) not in (0, 2) or len(set(editors)) != len(editors):
        raise UsageError(
            f"got {len(editors)} editors to compare ({', '.join(editors)}), expected two.",
            hint="Name two: --editor rome --editor ft.",
        )
    seen: list[str] = []
    for run in reversed(runs_in(out)):
        wrote = {
            label: cell
            for label, cell in cells_by_label(run, editors).items()
            if any(row.texts for row in rows_of(run, cell))
        }
        if not editors and len(wrote) > 2:
            wrote = {label: cell for label, cell in wrote.items() if cell.editor != _BASELINE}
        if len(wrote) == 2:
            (first, one), (second, other) = wrote.items()
            return Pair(run, (first, second), (one, other))
        seen += wrote
    raise _unclear(out, editors, seen)


def _unclear(out: Path, editors: Sequence[str], seen: Sequence[str]) -> UsageError:
    if not seen:
        what = f"no texts of {' and '.join(editors)}" if editors else "no texts"
        return UsageError(
            f"{out} has {what}.",
            hint="Run a benchmark whose metrics let the model write, such as "
            "'editkit run-benchmark atlas-generation'.",
        )
    return UsageError(
        f"{out} has texts of {', '.join(dict.fromkeys(seen))}; expected two editors to compare.",
        hint="Name two of these with --editor, once each, as they stand here.",
    )


def comparisons(pair: Pair, *, limit: int | None, seed: int) -> list[Comparison]:
    """What is compared: one text of each case, then another of each, in a seeded order.

    Texts that are the same, letter by letter, are left out: nobody can tell them apart.

    Args:
        pair: Whose texts.
        limit: Most comparisons; None: all.
        seed: Of the order of cases and texts, and of who stands on the left.

    Raises:
        UsageError: The store does not know the edits, as early versions wrote them.
    """
    requests = requests_of(pair.run)
    first, second = (
        {row.case_id: texts_of(row) for row in rows_of(pair.run, cell) if row.texts}
        for cell in pair.cells
    )
    turns: list[tuple[int, float, int, int]] = []
    for case_id in sorted(first.keys() & second.keys() & requests.keys()):
        places = [
            place
            for place, (a, b) in enumerate(zip(first[case_id], second[case_id], strict=False))
            if a != b
        ]
        places.sort(key=lambda place: _chance(seed, case_id, place))
        turns += [
            (turn, _chance(seed, "order", case_id, turn), case_id, place)
            for turn, place in enumerate(places)
        ]
    if not turns:
        raise UsageError(
            f"{' and '.join(pair.labels)} have no texts to compare: none in common, none that "
            "differ, or of cases whose edits the store does not know.",
            hint="Run the benchmark again with the same --out.",
        )
    found = []
    for number, (_, _, case_id, place) in enumerate(sorted(turns)[:limit]):
        swapped = _chance(seed, "side", case_id, place) < 0.5
        sides = (1, 0) if swapped else (0, 1)
        texts = (first[case_id][place], second[case_id][place])
        found.append(
            Comparison(
                number,
                case_id,
                place,
                requests[case_id],
                (pair.cells[sides[0]].fingerprint, pair.cells[sides[1]].fingerprint),
                (texts[sides[0]], texts[sides[1]]),
            )
        )
    return found


def _chance(*key: int | str) -> float:
    """A number from 0 up to 1 that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:6], "big") / 2**48
