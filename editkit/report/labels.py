"""What runs and cells are called in tables and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from editkit.results import Cell, Row, Run
from editkit.storage.digests import canonical_json, digest

__all__ = ["labels_of", "records", "run_key", "told_seconds"]

_MOST_FIELDS = 3


def heading(run: Run) -> str:
    """One line about a run."""
    records = f"{run.dataset['n_records']} records of {run.dataset['name']}"
    part = f", part {run.shard[0]} of {run.shard[1]}" if run.shard[1] > 1 else ""
    config = run.dataset.get("config") or {}
    asked = ", asked in a chat" if config.get("chat") is True else ""
    if isinstance(separator := config.get("separator"), str):
        asked += f", with the separator {separator!r}"
    return (
        f"{run.benchmark}: {records}{part}{asked}, on {run.model['name']} ({run.model['dtype']}); "
        "means x 100 ± 95%"
    )


def run_key(run: Run) -> str:
    """A few digits that stand for the model, the records and the protocols of a run."""
    metrics = [dict(metric) for metric in run.metrics]
    return digest([run.model["fingerprint"], run.dataset["digest"], metrics])[:6]


def labels_of(run: Run) -> tuple[str, ...]:
    """The editor of each cell, with whatever tells it from its namesakes."""
    return tuple(_label(run, cell) for cell in run.cells)


def _label(run: Run, cell: Cell) -> str:
    same = [other for other in run.cells if other.editor == cell.editor]
    parts = []
    if len({other.preset for other in same}) > 1:
        parts.append(str(cell.preset))
    if len({other.seed for other in same}) > 1:
        parts.append(f"seed {cell.seed}")
    twins = [o for o in same if (o.preset, o.seed) == (cell.preset, cell.seed)]
    if len(twins) > 1:
        parts += _differing(cell, twins)
    return f"{cell.editor} ({', '.join(parts)})" if parts else cell.editor


def _differing(cell: Cell, twins: Sequence[Cell]) -> list[str]:
    """The values in which cells differ; the fingerprint where those are none or many."""
    fields = [
        field
        for field in cell.config
        if field != "seed" and len({canonical_json(twin.config.get(field)) for twin in twins}) > 1
    ]
    told = {tuple(canonical_json(twin.config.get(field)) for field in fields) for twin in twins}
    if len(fields) > _MOST_FIELDS or len(told) < len(twins):
        return [cell.fingerprint[:6]]
    return [f"{field} {_short(cell.config[field])}" for field in fields]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else canonical_json(value)


def seconds(rows: Sequence[Row]) -> str:
    """Mean seconds per edit."""
    times = [row.times["edit_s"] for row in rows if row.status == "done" and "edit_s" in row.times]
    return told_seconds(sum(times) / len(times) if times else None)


def told_seconds(value: float | None) -> str:
    """Seconds as tables show them."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def records(counts: Mapping[str, int]) -> str:
    """How many records are done, and how many failed."""
    done, failed = counts["done"], counts["failed"]
    return f"{done} ({failed} failed)" if failed else str(done)
