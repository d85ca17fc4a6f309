"""Memory of long runs: ``pytest -m slow tests/test_memory.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from editkit.benchmark.store import Store
from editkit.results import STORE_FILE

_GROWTH_MB = 12  # two batches differ by as much


@pytest.mark.slow
def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    arguments = ["--editor", "none", "--limit", "1000", "--no-mlflow", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "editkit", "run-benchmark", *arguments, "--out", tmp_path],
        check=True,
        capture_output=True,
    )
    with Store(tmp_path / STORE_FILE, read_only=True) as store:
        [cell] = store.cells()
        rows = sorted(store.rows(cell), key=lambda row: row.completed_at)
    assert len(rows) == 1000
    assert rows[-1].peak_rss_mb - rows[499].peak_rss_mb < _GROWTH_MB
