"""How many rows a cell has when it is complete, and whether it has them."""

from __future__ import annotations

from editkit.benchmark.store import model_rows_of, rows_at
from editkit.results import Cell, Run

__all__ = ["is_complete", "wanted_rows"]


def wanted_rows(run: Run, cell: Cell) -> int:
    """How many records of the run a cell edits: all, unless its regime limits the models."""
    n, regime = int(run.dataset["n_records"]), cell.regime
    return n if regime.groups is None else min(n, regime.groups * regime.facts)


def is_complete(run: Run, cell: Cell) -> bool:
    """Whether every record has its rows at all checkpoints, and every model its scores."""
    regime, wanted = cell.regime, wanted_rows(run, cell)
    by_checkpoint = rows_at(run, cell)
    if regime.is_independent:
        return len(by_checkpoint.get(0, ())) == wanted
    sizes = [len(group) for group in regime.groups_of(range(wanted))]
    marks = [regime.checkpoints_of(size) for size in sizes]
    rows = sum(
        mark or size for size, own in zip(sizes, marks, strict=True) for mark in own
    )  # at checkpoint n, the first n facts have rows
    models = sum(map(len, marks)) if run.model_metrics else 0
    stored = sum(map(len, by_checkpoint.values()))
    return stored == rows and len(model_rows_of(run, cell)) >= models
