"""A finished benchmark run in a store, written without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editkit import Score
from editkit.benchmark.store import Store
from editkit.results import STORE_FILE, Cell, Row, Run

SCORES = (
    Score("efficacy/score", "ES", summary=True),
    Score("efficacy/magnitude", "EM", signed=True),
    Score("neighborhood/score", "NS", summary=True),
)
NOON = 1_700_000_000.0


def cell(editor: str, **changes: Any) -> Cell:
    fields: dict[str, Any] = {
        "editor": editor,
        "preset": None,
        "config": {"layer": 3, "layers": [1, 2], "note": None},
        "sources": {},
        "distribution": "editkit",
        "version": "0.1.0",
        "seed": 0,
        "fingerprint": f"{editor}-f00d",
        "params": {
            "editor": editor,
            "preset": None,
            "model": "tiny",
            "n_records": 3,
            "seed": 0,
            "editor.layer": 3,
            "editor.layers": "[1,2]",
        },
    }
    return Cell(**{**fields, **changes})


def row(case_id: int, es: float = 1.0, **changes: Any) -> Row:
    fields: dict[str, Any] = {
        "case_id": case_id,
        "status": "done",
        "scores": {"efficacy/score": es, "efficacy/magnitude": es / 2, "neighborhood/score": 0.5},
        "details": {"efficacy/nll_new": [0.1, 0.2]},
        "times": {"edit_s": 0.5, "score_s": 0.25},
        "notes": {"steps": 4},
        "completed_at": NOON + case_id,
        "peak_rss_mb": 100.0 + case_id,
    }
    return Row(**{**fields, **changes})


def run_in(out: Path, cells: Sequence[Cell], **changes: Any) -> Run:
    fields: dict[str, Any] = {
        "out": out,
        "benchmark": "small",
        "model": {"name": "tiny", "fingerprint": "f", "dtype": "float32"},
        "dataset": {"name": "facts", "digest": "d" * 64, "n_records": 3, "config": {}},
        "metrics": ({"name": "efficacy", "protocol": "p/v1"},),
        "scores": SCORES,
        "seeds": (0,),
        "cells": tuple(cells),
        "batch": 20,
    }
    return Run(**{**fields, **changes})


def store_rows(run: Run, cell: Cell, rows: Sequence[Row]) -> None:
    with Store(run.out / STORE_FILE) as store:
        store.put_cell(cell.fingerprint, run.describe(cell))
        store.put_rows(cell.fingerprint, rows)


def finished_run(out: Path, *editors: str) -> Run:
    run = run_in(out, [cell(editor) for editor in editors])
    for number, one in enumerate(run.cells):
        store_rows(run, one, [row(case, es=1.0 - number / 4) for case in (1, 2, 3)])
    return run
