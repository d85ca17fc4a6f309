"""How many rows a cell has when it is complete, and whether it has them."""

from __future__ import annotations

from editkit.benchmark.store import Store
from editkit.results import Cell, Run

__all__ = ["is_complete", "wanted_rows"]


def wanted_rows(run: Run, cell: Cell) -> int:
    """How many records of the run a cell edits: all, unless its regime limits the models."""
    n, regime = int(run.dataset["n_records"]), cell.regime
    return n if regime.groups is None else min(n, regime.groups * regime.facts)


def is_complete(run: Run, cell: Cell, *, checked: bool = False) -> bool:
    """Whether every record has its rows at all checkpoints, and every model its scores.

    Args:
        run: The run.
        cell: One of its cells.
        checked: Whether damaged rows were removed before. They do not count, and finding them means
            reading everything.

    Raises:
        StoreError: The store cannot be read.
    """
    regime, wanted = cell.regime, wanted_rows(run, cell)
    with Store(run.store, read_only=True) as store:
        stored = {
            table: store.count(table, cell.fingerprint)
            if checked
            else len(store.keys(table, cell.fingerprint))
            for table in ("rows", "history", "models")
        }
    if regime.is_independent:
        return stored["rows"] == wanted
    sizes = [len(group) for group in regime.groups_of(range(wanted))]
    marks = [regime.checkpoints_of(size) for size in sizes]
    rows = sum(
        mark or size for size, own in zip(sizes, marks, strict=True) for mark in own
    )  # at checkpoint n, the first n facts have rows
    models = sum(map(len, marks)) if run.model_metrics else 0
    return stored["rows"] + stored["history"] == rows and stored["models"] >= models
