"""Measure the driver of a run against simulated workers, and what large stores cost."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from editkit.benchmark.merge import merge
from editkit.benchmark.runner import Finished, run_plan
from editkit.benchmark.store import Store
from editkit.cli.main import main as editkit
from editkit.registry.plugins import default_registry
from editkit.report.text import run_table
from editkit.results import STORE_FILE
from editkit.storage.machine import memory_of_this_process, peak_memory_of_this_process
from editkit_benchmarks.scale.simulated import (
    InstantPool,
    InstantRecipe,
    SimulatedPool,
    plan_of,
    sample_rows,
)

_MB = 2**20
_ROWS_AT_ONCE = 500  # when a store is filled


def driver(args: argparse.Namespace) -> dict[str, Any]:
    """Run a plan on simulated workers; how many rows the driver takes in a second."""
    registry = default_registry()
    plan = plan_of(registry, records=args.records, editors=args.editors, generation=args.generation)
    rows = sample_rows(plan, generation=args.generation)
    pool = SimulatedPool(plan, rows, workers=args.workers, seconds=args.seconds)
    before = memory_of_this_process()
    with _folder(args.out) as out:
        run_plan(plan, out, registry, tracking=False, quiet=True, pool=pool)
        size = (out / STORE_FILE).stat().st_size
    n_rows = args.records * len(plan.cells)
    first, last = pool.moments[0], pool.moments[-1]
    wall, used = last.wall - first.wall, last.cpu - first.cpu
    tenth = max(1, (len(pool.moments) - 1) // 10)
    rates = [
        tenth * plan.batch / (pool.moments[end].wall - pool.moments[end - tenth].wall)
        for end in (tenth, len(pool.moments) - 1)
    ]
    return {
        "workers": args.workers,
        "rows": n_rows,
        "seconds_per_record": args.seconds,
        "wall_s": wall,
        "wall_s_if_the_driver_took_no_time": pool.least_s,
        "rows_per_s": n_rows / wall,
        "rows_per_s_first_tenth": rates[0],
        "rows_per_s_last_tenth": rates[1],
        "cpu_ms_per_row": 1000 * used / n_rows,
        "workers_fed_by_cpu": {f"{s:g} s": round(s * n_rows / used) for s in (0.1, 0.3, 1.0, 3.0)},
        "workers_busy": min(1.0, n_rows * args.seconds / args.workers / wall),
        "memory_mb": (peak_memory_of_this_process() - before) / _MB,
        "store_mb": size / _MB,
        "store_bytes_per_row": size / n_rows,
    }


def ray(args: argparse.Namespace) -> dict[str, Any]:
    """Run a plan on Ray actors without a model; what Ray and the driver take per unit."""
    from editkit.workers.ray_pool import RayPool

    registry = default_registry()
    plan = plan_of(registry, records=args.records, editors=args.editors, generation=args.generation)
    rows = sample_rows(plan, generation=args.generation)
    pool = InstantPool(
        RayPool(args.address, workers=args.workers),
        InstantRecipe(rows, plan.model_description()),
    )
    started = time.monotonic()
    with _folder(args.out) as out:
        run_plan(plan, out, registry, tracking=False, quiet=True, pool=pool)
    first, last = pool.moments
    n_units = len(plan.batches) * len(plan.cells)
    n_rows = args.records * len(plan.cells)
    return {
        "workers": args.workers,
        "units": n_units,
        "rows": n_rows,
        "start_s": first.wall - started,
        "wall_ms_per_unit": 1000 * (last.wall - first.wall) / n_units,
        "driver_cpu_ms_per_unit": 1000 * (last.cpu - first.cpu) / n_units,
        "rows_per_s": n_rows / (last.wall - first.wall),
    }


def store(args: argparse.Namespace) -> dict[str, Any]:
    """Fill a store, and measure each use of it in a process of its own."""
    with _folder(args.out) as out:
        _fill(args, out, (1, 1))
        result: dict[str, Any] = {
            "rows": args.records * args.editors,
            "store_mb": (out / STORE_FILE).stat().st_size / _MB,
        }
        for name in STEPS:
            sys.stderr.write(f"{name} ...\n")
            command = [
                sys.executable,
                "-m",
                "editkit_benchmarks.scale",
                "step",
                name,
                "--out",
                str(out),
            ]
            command += ["--records", str(args.records), "--editors", str(args.editors)]
            command += ["--shards", str(args.shards), *["--generation"] * args.generation]
            ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            result[name] = json.loads(ended.stdout)
    return result


def step(args: argparse.Namespace) -> dict[str, Any]:
    """One use of a filled store, measured in this process."""
    work = STEPS[args.name](args)
    used, started = time.process_time(), time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    return {
        "cpu_s": time.process_time() - used,
        "wall_s": time.monotonic() - started,
        "peak_mb": peak_memory_of_this_process() / _MB,
    }


def _resume(args: argparse.Namespace) -> Callable[[], Finished]:
    """A run that finds all of its rows."""
    registry = default_registry()
    plan = plan_of(registry, records=args.records, editors=args.editors, generation=args.generation)
    pool = SimulatedPool(plan, (), workers=1, seconds=0)
    return lambda: run_plan(plan, args.out, registry, tracking=False, quiet=True, pool=pool)


def _table(args: argparse.Namespace) -> Callable[[], object]:
    """The table at the end of a run."""
    finished = _resume(args)()

    def work() -> str:
        result = finished.document(differences=False)
        finished.failures()
        return run_table(finished.run, result["cells"], terminal=False)

    return work


def _report(args: argparse.Namespace) -> Callable[[], object]:
    return lambda: editkit(["report", str(args.out)])


def _merge(args: argparse.Namespace) -> Callable[[], object]:
    """Join the stores of all shards."""
    target = args.out / "merged" / STORE_FILE
    shards = [args.out / f"shard-{i}" for i in range(1, args.shards + 1)]
    for i, folder in enumerate(shards, start=1):
        _fill(args, folder, (i, args.shards))

    def work() -> None:
        with Store(target) as into:
            for folder in shards:
                with Store(folder / STORE_FILE, read_only=True) as source:
                    merge(into, source)

    return work


STEPS: Mapping[str, Callable[[argparse.Namespace], Callable[[], object]]] = {
    "resume": _resume,
    "table": _table,
    "report": _report,
    "merge": _merge,
}


def _fill(args: argparse.Namespace, out: Path, shard: tuple[int, int]) -> None:
    plan = plan_of(
        default_registry(),
        records=args.records,
        editors=args.editors,
        generation=args.generation,
        shard=shard,
    )
    rows = sample_rows(plan, generation=args.generation)
    run = plan.run(out, plan.model_description(), tracking=False)
    cases = [record.case_id for batch in plan.batches for record in batch.records]
    own = SimulatedPool.rows_of(rows, cases)
    with Store(out / STORE_FILE) as target:
        target.computed_with({"simulated": True})
        for cell in run.cells:
            target.put_cell(cell.fingerprint, run.describe(cell))
            for start in range(0, len(own), _ROWS_AT_ONCE):
                target.put_rows(cell.fingerprint, own[start : start + _ROWS_AT_ONCE])
        requests = {r.case_id: r.requests for batch in plan.batches for r in batch.records}
        target.put_requests(str(plan.dataset["digest"]), requests)


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
