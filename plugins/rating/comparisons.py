"""The questions, and which texts are compared: in which order, and on which side.

The questions follow the human evaluation of Meng et al. 2022.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from editkit import EditRequest, UsageError
from editkit.benchmark.store import requests_of, rows_of, runs_in
from editkit.report.generations import cells_by_label, texts_of
from editkit.results import Cell, Row, Run
from editkit.storage.digests import seed_of

QUESTIONS = {
    "consistent": "Which text agrees better with the statement?",
    "fluent": "Which text is more fluent, regardless of its content?",
}
"""Wording by the key of the answers in the store."""

CHOICES = {"left": "A", "same": "about the same", "right": "B"}
"""Label by answer."""

_BASELINE = "none"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two texts on one prompt.

    Attributes:
        number: Index in the order, from 0; nothing else identifies the comparison in the browser.
        case_id: The case.
        place: Index of the texts within the case.
        requests: The edits that both editors made.
        cells: Fingerprints of the cells, left and right.
        texts: The texts, left and right.
    """

    number: int
    case_id: int
    place: int
    requests: tuple[EditRequest, ...]
    cells: tuple[str, str]
    texts: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two cells of one run, with their labels."""

    run: Run
    labels: tuple[str, str]
    cells: tuple[Cell, Cell]


def chosen_pair(out: Path, editors: Sequence[str]) -> Pair:
    """The two editors to compare, in the latest run that has texts of both.

    Args:
        out: Output folder of the runs.
        editors: Two names or labels; empty if the run has only two besides the unedited model.

    Raises:
        UsageError: The choice is ambiguous, or there are no texts.
        StoreError: There is no store, or it cannot be read.
    """
    if len(editors) not in (0, 2) or len(set(editors)) != len(editors):
        raise UsageError(
            f"got {len(editors)} editors to compare ({', '.join(editors)}), expected two.",
            hint="Name two: -e rome,ft.",
        )
    with_texts: list[str] = []
    for run in reversed(runs_in(out)):
        cells = {
            label: cell
            for label, cell in cells_by_label(run, editors).items()
            if any(row.texts for row in rows_of(run, cell))
        }
        if not editors and len(cells) > 2:
            cells = {label: cell for label, cell in cells.items() if cell.editor != _BASELINE}
        if len(cells) == 2:
            (first, one), (second, other) = cells.items()
            return Pair(run, (first, second), (one, other))
        with_texts += cells
    raise _no_pair(out, editors, with_texts)


def _no_pair(out: Path, editors: Sequence[str], with_texts: Sequence[str]) -> UsageError:
    if not with_texts:
        of = f" of {' and '.join(editors)}" if editors else ""
        return UsageError(
            f"{out} has no texts{of}.",
            hint="Run a benchmark with a metric that generates text, such as "
            "'editkit run-benchmark atlas-generation'.",
        )
    labels = ", ".join(dict.fromkeys(with_texts))
    return UsageError(
        f"{out} has texts of {labels}; expected two editors to compare.",
        hint="Choose two of these labels with --editor, given twice.",
    )


def comparisons(pair: Pair, *, limit: int | None, seed: int) -> list[Comparison]:
    """One text of each case in a random order, then another text of each, and so on.

    Identical texts are skipped.

    Args:
        pair: The two cells.
        limit: Maximum number of comparisons; None for all.
        seed: Seed of the order of cases and texts, and of the sides.

    Raises:
        UsageError: There is nothing to compare, or the store has no edits (early versions).
    """
    requests = requests_of(pair.run)
    first, second = (
        {row.case_id: _to_compare(row) for row in rows_of(pair.run, cell) if row.texts}
        for cell in pair.cells
    )
    order: list[tuple[int, float, int, int]] = []  # round, random number, case, place
    for case_id in sorted(first.keys() & second.keys() & requests.keys()):
        places = [
            place
            for place, (a, b) in enumerate(zip(first[case_id], second[case_id], strict=False))
            if a != b
        ]
        places.sort(key=lambda place: _random(seed, case_id, place))
        order += [
            (turn, _random(seed, "order", case_id, turn), case_id, place)
            for turn, place in enumerate(places)
        ]
    if not order:
        raise UsageError(
            f"{' and '.join(pair.labels)} have no texts to compare: they share no case with "
            "different texts whose edit is in the store.",
            hint="Run the benchmark again with the same --out.",
        )
    compared = []
    for number, (_, _, case_id, place) in enumerate(sorted(order)[:limit]):
        left, right = (1, 0) if _random(seed, "side", case_id, place) < 0.5 else (0, 1)
        texts = (first[case_id][place], second[case_id][place])
        compared.append(
            Comparison(
                number=number,
                case_id=case_id,
                place=place,
                requests=requests[case_id],
                cells=(pair.cells[left].fingerprint, pair.cells[right].fingerprint),
                texts=(texts[left], texts[right]),
            )
        )
    return compared


def _to_compare(row: Row) -> list[str]:
    """The sampled texts of a row; if it has none, all texts.

    Others are short answers, or about other subjects.
    """
    return row.texts.get("generation") or texts_of(row)


def _random(*key: int | str) -> float:
    """A pseudo-random number in [0, 1) that depends only on the key."""
    return seed_of(key, n_bytes=6) / 2**48
