"""Texts that edited models wrote, read from a store."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from editkit.benchmark.store import requests_of, rows_of, runs_in
from editkit.data_types import EditRequest
from editkit.errors import UsageError, did_you_mean
from editkit.report.labels import labels_of
from editkit.results import Cell, Row, Run

__all__ = ["CaseTexts", "cells_by_label", "texts_of", "texts_on_case"]


@dataclasses.dataclass(frozen=True)
class CaseTexts:
    """The texts of several editors on one case of one run.

    Attributes:
        run: The run.
        case_id: The case.
        requests: Its edits; empty if the store does not have them.
        written: Texts by label of the editor and by their key, such as ``generation``.
        judged: What a judge was sent and what it replied, by label and kind of prompt.
    """

    run: Run
    case_id: int
    requests: tuple[EditRequest, ...]
    written: dict[str, dict[str, list[str]]]
    judged: dict[str, dict[str, list[tuple[str, str]]]] = dataclasses.field(default_factory=dict)

    @property
    def texts(self) -> dict[str, list[str]]:
        """All texts by label of the editor, sorted by their keys."""
        return {
            label: [text for key in sorted(by_key) for text in by_key[key]]
            for label, by_key in self.written.items()
        }

    @property
    def keys(self) -> list[str]:
        """The keys of all texts, sorted."""
        return sorted({key for by_key in self.written.values() for key in by_key})


def texts_of(row: Row) -> list[str]:
    """All texts that the edited model wrote, sorted by their keys."""
    written = row.written
    return [text for key in sorted(written) for text in written[key]]


def cells_by_label(run: Run, editors: Sequence[str]) -> dict[str, Cell]:
    """The run's cells by label.

    Args:
        run: The run.
        editors: Names or labels to select, in this order; empty selects all cells.
    """
    cells = dict(zip(labels_of(run), run.cells, strict=True))
    if not editors:
        return cells
    names = dict.fromkeys(editors)
    return {
        label: cell
        for name in names
        for label, cell in cells.items()
        if name in (label, cell.editor)
    }


def texts_on_case(out: Path, case_id: int, editors: Sequence[str]) -> list[CaseTexts]:
    """The texts on one case, one entry per run.

    Args:
        out: Output folder of the runs.
        case_id: The case.
        editors: Names or labels of editors; empty selects all that wrote something.

    Raises:
        UsageError: The store has no texts of an editor or of the case.
        StoreError: There is no store, or it cannot be read.
    """
    runs = runs_in(out)
    _check_editors(runs, editors, out)
    by_run = []
    cases: set[int] = set()
    for run in runs:
        written: dict[str, dict[str, list[str]]] = {}
        judged: dict[str, dict[str, list[tuple[str, str]]]] = {}
        for label, cell in cells_by_label(run, editors).items():
            rows = {row.case_id: row for row in rows_of(run, cell) if row.texts}
            cases |= rows.keys()
            if case_id in rows:
                written[label] = dict(rows[case_id].written)
                judged[label] = rows[case_id].judged
        if written:
            requests = requests_of(run).get(case_id, ())
            by_run.append(CaseTexts(run, case_id, requests, written, judged))
    if not by_run:
        raise _no_texts(out, case_id, sorted(cases))
    return by_run


def _check_editors(runs: Sequence[Run], editors: Sequence[str], out: Path) -> None:
    known = {name for run in runs for name in labels_of(run)}
    known |= {cell.editor for run in runs for cell in run.cells}
    for name in editors:
        if name not in known:
            raise UsageError(
                f"{out} has no results of an editor {name!r}.",
                hint=did_you_mean(name, sorted(known)) or f"It has: {', '.join(sorted(known))}.",
            )


def _no_texts(out: Path, case_id: int, cases: Sequence[int]) -> UsageError:
    if not cases:
        return UsageError(
            f"{out} has no texts.",
            hint="Run a benchmark with a metric that generates text, such as "
            "'editkit run-benchmark --metrics fluency'.",
        )
    n_others = len(cases) - 8
    some = ", ".join(map(str, cases[:8])) + (f" and {n_others} more" if n_others > 0 else "")
    return UsageError(f"{out} has no texts of case {case_id}.", hint=f"Cases with texts: {some}.")
