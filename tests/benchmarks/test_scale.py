"""The simulation runs the real driver: its store has every row, and late answers take time."""

from __future__ import annotations

from pathlib import Path

import pytest

from editkit.benchmark.runner import run_plan
from editkit.benchmark.store import rows_of
from editkit.registry.plugins import default_registry
from editkit_benchmarks.scale.simulated import SimulatedPool, plan_of, sample_rows


@pytest.mark.parametrize("generation", [False, True], ids=["scores", "texts"])
def test_simulated_workers_fill_a_real_store(generation: bool, tmp_path: Path) -> None:
    registry = default_registry()
    plan = plan_of(registry, records=130, editors=2, generation=generation)
    rows = sample_rows(plan, generation=generation)
    pool = SimulatedPool(plan, rows, workers=50, seconds=0.001)
    finished = run_plan(plan, tmp_path, registry, tracking=False, quiet=True, pool=pool)
    for cell in finished.run.cells:
        stored = rows_of(finished.run, cell)
        assert [row.case_id for row in stored] == list(range(130))
        assert stored[7].details == rows[7].details
        assert len(stored[7].texts.get("generation", ())) == 10 * generation
    assert len(pool.moments) == 1 + 2 * 7
    assert pool.moments[-1].wall - pool.moments[0].wall >= 0.001 * 10
    # With a driver that takes no time, each of the 50 workers does one of the 14 units.
    assert pool.least_s == max(pool.durations)
    assert len(pool.durations) == 14
    alone = SimulatedPool(plan, rows, workers=1, seconds=0.001)
    alone.durations = [1.0, 2.0]
    assert alone.least_s == 3.0
    assert finished.failures() == []
