"""The ``--json`` document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from editkit.benchmark.aggregate import metrics_of, outcomes, plain_estimates, times_of
from editkit.benchmark.store import rows_of
from editkit.results import Cell, Run

__all__ = ["KEYS", "SCHEMA", "cell_entry", "document"]

SCHEMA = 1
KEYS = frozenset({"schema", "benchmark", "model", "dataset", "cells"})
"""Keys of the document that are ours: no observer can claim them."""


def document(run: Run, added: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The run as one plain document.

    Args:
        run: The run; its rows are read from the store.
        added: What observers add, such as ``{"mlflow": {...}}``.
    """
    own = {
        "schema": SCHEMA,
        "benchmark": run.benchmark,
        "model": dict(sorted(run.model.items())),
        "dataset": {key: run.dataset[key] for key in ("name", "digest", "n_records", "rejected")},
        "cells": [cell_entry(run, cell) for cell in run.cells],
    }
    return {**own, **{key: value for key, value in (added or {}).items() if key not in own}}


def cell_entry(run: Run, cell: Cell) -> dict[str, Any]:
    """One cell with its numbers; scores are fractions."""
    rows = rows_of(run, cell)
    failed = sum(row.status == "failed" for row in rows)
    return {
        "editor": cell.editor,
        "preset": cell.preset,
        "seed": cell.seed,
        "fingerprint": cell.fingerprint,
        "records": {"done": len(rows) - failed, "failed": failed},
        "metrics": plain_estimates(metrics_of(rows, run.scores)),
        "edits": outcomes(cell.editor, rows, run.scores).document(),
        "time": times_of(rows),
        "memory": {"peak_rss_mb": max((row.peak_rss_mb for row in rows), default=0.0)},
    }
