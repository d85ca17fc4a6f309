"""Results as pandas tables: one row per scored record, or per scored model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit.data_types import EditRequest
from editkit.registry.values_label import values_from
from editkit.results import Cell, ModelRow, Row, Run

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["frame_of_models", "frame_of_records"]

_OF_CELLS = (
    "benchmark",
    "model",
    "dtype",
    "dataset",
    "editor",
    "preset",
    "values_from",
    "regime",
    "seed",
    "cell",
)
_OF_RECORDS = (
    *(*_OF_CELLS, "case_id", "subject", "prompt", "target_new", "group", "place", "checkpoint"),
    *("status", "error"),
)
_OF_MODELS = (*_OF_CELLS, "group", "checkpoint")
_WHOLE = ("seed", "case_id", "group", "place", "checkpoint")


def frame_of_records(
    rows: Iterable[tuple[Run, Cell, Row, Sequence[EditRequest]]],
) -> DataFrame:
    """A table with a row per record, editor, seed and checkpoint.

    Scores are columns under their keys, and times (``edit_s``) under theirs; what a row lacks is
    missing (NaN).

    Args:
        rows: Each row with its run and cell, and with the edits of its record as far as they are
            known. Of several edits, subjects, prompts and objects are joined by semicolons.
    """
    return _frame(
        _OF_RECORDS,
        (
            (
                {
                    **_of_cell(run, cell),
                    "case_id": row.case_id,
                    "subject": _joined(request.subject for request in requests),
                    "prompt": _joined(request.sentence for request in requests),
                    "target_new": _joined(request.target_new for request in requests),
                    "group": row.group,
                    "place": row.place,
                    "checkpoint": row.checkpoint,
                    "status": row.status,
                    "error": row.error,
                },
                {**row.scores, **row.times},
            )
            for run, cell, row, requests in rows
        ),
    )


def frame_of_models(rows: Iterable[tuple[Run, Cell, ModelRow]]) -> DataFrame:
    """A table with a row per edited model and checkpoint; columns as in frame_of_records."""
    return _frame(
        _OF_MODELS,
        (
            (
                {**_of_cell(run, cell), "group": row.group, "checkpoint": row.checkpoint},
                {**row.scores, **row.times},
            )
            for run, cell, row in rows
        ),
    )


def _joined(texts: Iterable[str]) -> str | None:
    return "; ".join(texts) or None


def _of_cell(run: Run, cell: Cell) -> dict[str, Any]:
    return {
        "benchmark": run.benchmark,
        "model": run.model["name"],
        "dtype": run.model["dtype"],
        "dataset": run.dataset["name"],
        "editor": cell.editor,
        "preset": cell.preset,
        "values_from": values_from(cell),
        "regime": cell.regime.label,
        "seed": cell.seed,
        "cell": cell.fingerprint[:12],
    }


def _frame(
    columns: tuple[str, ...], rows: Iterable[tuple[Mapping[str, Any], Mapping[str, float]]]
) -> DataFrame:
    """The table; a number with the name of a fixed column gets the prefix ``score:``."""
    from pandas import DataFrame

    table: list[dict[str, Any]] = []
    numbers: dict[str, None] = {}
    for fixed, measured in rows:
        own = {f"score:{key}" if key in columns else key: n for key, n in measured.items()}
        numbers |= dict.fromkeys(own)
        table.append({**fixed, **own})
    frame = DataFrame(table, columns=[*columns, *numbers])
    types = dict.fromkeys(numbers, "float64")
    types |= {name: "int64" for name in _WHOLE if name in columns}
    return frame.astype(types)
