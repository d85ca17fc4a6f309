"""A benchmark on a Ray cluster that loses a worker and a machine prints the same table."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from editkit.benchmark.driver import Driver
from editkit.benchmark.plan import make_plan
from editkit.benchmark.runner import Finished, run_plan
from editkit.benchmark.spec import parse_benchmark
from editkit.registry.plugins import default_registry
from editkit.workers.pool import InProcess, Pool
from editkit.workers.ray_pool import RayPool
from tests.editkit.benchmark.test_sequences_survive import files
from tests.editkit.benchmark.test_sequences_survive import rows as rows_of_one_cell
from tests.editkit.workers import needs_ray
from tests.editkit.workers.test_ray_cluster import cluster  # noqa: F401 - a fixture

pytestmark = [needs_ray, pytest.mark.slow]

BENCHMARK = """
name: cluster
model: atlas
dataset: atlas
metrics: [efficacy, paraphrase]
model_metrics: [change-norm]
limit: 12
batch: 3
editors:
  - {name: ft, config: {steps: 10}}
  - {name: rome, config: {steps: 10, corpus_tokens: 20000}, edits: [{sequential: 6, step: 2}]}
"""


def finished(pool: Pool, out: Path) -> Finished:
    registry = default_registry()
    plan = make_plan(parse_benchmark(BENCHMARK, place="cluster.yaml"), registry)
    return run_plan(plan, out, registry, pool=pool, quiet=True, tracking=False)


def rows(done: Finished) -> list[Any]:
    """All rows, wherever they were computed."""
    runs = [dataclasses.replace(done.run, cells=(cell,)) for cell in done.run.cells]
    every = [row for run in runs for row in rows_of_one_cell(run)]
    assert all(row.environment for row in every)
    return [dataclasses.replace(row, environment="") for row in every]


@pytest.fixture
def after_rows(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[str], object]]:
    """What happens to the worker that sent rows for the n-th time, from 1."""
    events: dict[int, Callable[[str], object]] = {}
    keep = Driver._keep
    sent: list[str] = []

    def keeping(self: Driver, unit: Any, answer: Any, worker: str) -> None:
        keep(self, unit, answer, worker)
        if ":" in worker:  # on the cluster
            sent.append(worker)
            events.get(len(sent), str)(worker)

    monkeypatch.setattr(Driver, "_keep", keeping)
    return events


def test_a_lost_worker_and_a_lost_machine_change_no_bit(
    cluster: Any,  # noqa: F811
    after_rows: dict[int, Callable[[str], object]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = finished(InProcess(), tmp_path / "here")
    node = sorted(cluster.worker_nodes, key=lambda node: node.unique_id)[0]
    after_rows[1] = lambda worker: os.kill(int(worker.rpartition(":")[2]), signal.SIGKILL)
    after_rows[4] = lambda _: cluster.remove_node(node, allow_graceful=False)
    done = finished(RayPool(cluster.address), tmp_path / "there")
    assert caplog.text.count("its worker was lost") >= 2
    assert rows(done) == rows(expected)
    assert files(tmp_path / "there") == files(tmp_path / "here")
    again = finished(InProcess(), tmp_path / "there")  # nothing is left, wherever it was computed
    assert again.document()["cells"] == done.document()["cells"]
