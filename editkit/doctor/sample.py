"""A measured sample of a run: some batches or groups of every editor, each part timed apart.

Everything is done as a run does it (:mod:`editkit.benchmark.bench`), and nothing is stored, except
statistics, which go to the cache, where the run finds them.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from editkit.benchmark.bench import Bench, BenchRecipe
from editkit.benchmark.inputs import load_model_of
from editkit.benchmark.jobs import Job, Rows, Saved, WeightsChanged, Written
from editkit.benchmark.plan import Batch, Plan, PlannedCell
from editkit.benchmark.sequence_files import SequenceFiles
from editkit.benchmark.store import Store
from editkit.errors import PluginError
from editkit.progress import counting
from editkit.registry.plugins import Registry
from editkit.registry.random_state import seeded
from editkit.results import STORE_FILE, Cell, ModelRow, Row
from editkit.storage.machine import memory_of_this_process, peak_memory_of_this_process

__all__ = ["CellSample", "MeasuredUnit", "Sample", "measure"]

UNITS = 2
"""Units of each editor that are measured, besides one to warm up."""

_STORED_ROWS = 400  # of each kind in a store that is measured
_FLOAT = 4


@dataclasses.dataclass(frozen=True)
class MeasuredUnit:
    """The seconds of a batch, or of a group of facts that share a model.

    Attributes:
        records: Its records.
        scored: Rows of records, at all checkpoints.
        models: Rows of models.
        edit_s: Seconds of editing.
        score_s: Seconds of scoring records.
        models_s: Seconds of scoring models.
        rest_s: All other seconds, such as the check that the weights are unchanged.
    """

    records: int
    scored: int
    models: int
    edit_s: float
    score_s: float
    models_s: float
    rest_s: float

    @property
    def seconds(self) -> float:
        """All of its seconds."""
        return self.edit_s + self.score_s + self.models_s + self.rest_s


@dataclasses.dataclass(frozen=True)
class CellSample:
    """What was measured of a cell.

    Attributes:
        cell: The cell.
        statistics_s: Seconds until statistics were in the cache, besides ``prepare_s``; 0 if they
            were there.
        prepare_s: Seconds to prepare the editor with all statistics in the cache.
        units: The units in order, without those that warmed up.
        warm: Whether a unit was done before the measured ones.
        store_bytes: Bytes in the store per row of a record.
        file_bytes: Bytes of the delta and state of a group of this size; 0 without groups.
        dense_bytes: Most bytes that the delta can have, with every changed weight.
        skipped: Why nothing could be measured; empty otherwise.
    """

    cell: Cell
    statistics_s: float = 0.0
    prepare_s: float = 0.0
    units: tuple[MeasuredUnit, ...] = ()
    warm: bool = True
    store_bytes: float = 0.0
    file_bytes: int = 0
    dense_bytes: int = 0
    skipped: str = ""


@dataclasses.dataclass(frozen=True)
class Sample:
    """What was measured of a run.

    Attributes:
        cells: Its cells in order.
        startup_s: Seconds until a worker can edit: its imports, the model and the metrics.
        base_bytes: Memory of the process before it loaded the model.
        peak_bytes: Peak memory of the process.
        gpu_bytes: Peak memory of its GPU; 0 without one.
        store_rows_per_s: Rows per second that the driver can store.
        request_bytes: Bytes in the store for the request of a record.
        threads: Threads that a worker computes with.
        cores: Processors of this machine.
        seconds: Seconds of the whole sample.
    """

    cells: tuple[CellSample, ...]
    startup_s: float
    base_bytes: int
    peak_bytes: int
    gpu_bytes: int
    store_rows_per_s: float
    request_bytes: float
    threads: int
    cores: int
    seconds: float


def measure(
    plan: Plan, registry: Registry, *, seconds: float, to_compute: Collection[str] = ()
) -> Sample:
    """Measure a sample of every cell of a plan.

    Args:
        plan: The plan.
        registry: Provides editors and metrics.
        seconds: Time limit of the units, shared by the cells. Start-up and statistics come on
            top, and at least one unit of each cell is measured, however long it takes.
        to_compute: Names of the editors with a statistic that is not in the cache.

    Raises:
        ModelError: The model cannot be loaded.
        PluginError: An editor or metric cannot be prepared, or an editor changed the model.
    """
    import torch

    imports = time.process_time()
    started = time.perf_counter()
    base = memory_of_this_process()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    statistics = _statistics(plan, registry, to_compute)
    loading = time.perf_counter()
    fingerprints = [planned.cell.fingerprint for planned in plan.cells]
    bench = BenchRecipe.of(plan, fingerprints, registry, is_local=True).build()
    startup = imports + time.perf_counter() - loading
    cells, rates, request_bytes = [], [], 0.0
    with (
        counting("measuring a sample", len(plan.cells), unit="editor") as advance,
        tempfile.TemporaryDirectory() as folder,
    ):
        deadline = time.perf_counter() + seconds
        for i, planned in enumerate(plan.cells):
            share = (deadline - time.perf_counter()) / (len(plan.cells) - i)
            advance.relabel(f"measuring {planned.cell.editor}")
            measured, rows = _measured(bench, plan, planned, share, Path(folder))
            size, rate, request_bytes = _stored(plan, planned.cell, rows, Path(folder))
            rates.append(rate)
            cells.append(
                dataclasses.replace(
                    measured,
                    statistics_s=statistics[planned.cell.fingerprint],
                    store_bytes=size,
                )
            )
            advance()
    return Sample(
        cells=tuple(cells),
        startup_s=startup,
        base_bytes=base,
        peak_bytes=peak_memory_of_this_process(),
        gpu_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        store_rows_per_s=min(rates, default=0.0),
        request_bytes=request_bytes,
        threads=torch.get_num_threads(),
        cores=os.cpu_count() or 1,
        seconds=time.perf_counter() - started,
    )


def _statistics(plan: Plan, registry: Registry, to_compute: Collection[str]) -> dict[str, float]:
    """Have statistics computed; the seconds by cell."""
    seconds = {planned.cell.fingerprint: 0.0 for planned in plan.cells}
    missing = [planned for planned in plan.cells if planned.cell.editor in to_compute]
    if not missing:
        return seconds
    model = load_model_of(plan.model)
    for planned in missing:
        times = []
        for _ in range(2):  # the second time, all statistics are in the cache
            editor = registry.build("editor", planned.cell.editor, planned.config)
            started = time.perf_counter()
            with seeded(planned.cell.seed, "prepare"):
                editor.prepare(model)
            times.append(time.perf_counter() - started)
        seconds[planned.cell.fingerprint] = max(0.0, times[0] - times[1])
    return seconds


def _measured(
    bench: Bench, plan: Plan, planned: PlannedCell, seconds: float, folder: Path
) -> tuple[CellSample, list[Row]]:
    """The units of a cell that fit into some seconds, at least one."""
    cell = planned.cell
    deadline = time.perf_counter() + seconds
    units: list[MeasuredUnit] = []
    rows: list[Row] = []
    last: Written | None = None
    prepare_s = 0.0
    for batch in sample_units(plan, cell):
        if units and time.perf_counter() > deadline:
            break
        started = time.perf_counter()
        answers = list(_answers(bench, cell, batch))
        taken = time.perf_counter() - started
        own = [answer for answer in answers if isinstance(answer, Rows)]
        if not units:  # only the first unit waits for the editor
            times = [row.times.get("prepare_s", 0.0) for each in own for row in each.rows]
            prepare_s = max(times, default=0.0)
            taken -= prepare_s
        units.append(_unit(own, len(batch.records), taken))
        rows += [row for each in own for row in each.rows]
        last = next((a.written for a in reversed(answers) if isinstance(a, Saved)), last)
    warm = len(units) > 1
    files = 0
    dense = 0
    if last is not None and last.delta is not None:
        saved = SequenceFiles(folder, cell.fingerprint, 0)
        saved.save(last)
        files = sum(path.stat().st_size for path in saved.folder.iterdir())
        shapes = [change.shape for change in last.delta.changes.values()]
        dense = _FLOAT * sum(width * height for width, height, *_ in ((*s, 1) for s in shapes))
    errors = [row.error for row in rows if row.status == "failed"]
    all_failed = errors and len(errors) == len(rows)
    return (
        CellSample(
            cell,
            prepare_s=prepare_s,
            units=tuple(units[1:] if warm else units),
            warm=warm,
            file_bytes=files,
            dense_bytes=dense,
            skipped=f"every record of its sample failed: {errors[0]}" if all_failed else "",
        ),
        rows,
    )


def sample_units(plan: Plan, cell: Cell) -> list[Batch]:
    """Units to measure, the first one to warm up: batches all over the dataset, or short groups.

    Groups have the records of two batches at most, in whole steps.
    """
    units = plan.units(cell)
    wanted = UNITS + 1
    if cell.regime.is_independent:
        whole = [unit for unit in units if len(unit.records) == plan.batch] or list(units)
        n = min(wanted, len(whole))
        return [whole[i * (len(whole) - 1) // max(1, n - 1)] for i in range(n)]
    records = [record for unit in units for record in unit.records]
    step = cell.regime.step
    size = min(cell.regime.facts, max(step, 2 * plan.batch // step * step))
    starts = range(0, max(1, len(records) - size + 1), size)
    return [Batch(i, tuple(records[at : at + size])) for i, at in enumerate(starts)][:wanted]


def _answers(bench: Bench, cell: Cell, batch: Batch) -> Iterator[object]:
    for answer in bench.do(Job(cell.fingerprint, batch)):
        if isinstance(answer, WeightsChanged):
            raise PluginError(
                f"editor {cell.editor!r} changed the model's own weights, expected them "
                "bit-identical.",
                hint="Report this to the editor's author; --editor chooses other editors.",
            )
        yield answer


def _unit(answers: Sequence[Rows], records: int, seconds: float) -> MeasuredUnit:
    ended = [row for each in answers if each.ended for row in each.rows]
    scored: list[Row] = [row for each in answers for row in each.rows]
    models: list[ModelRow] = [row for each in answers for row in each.models]
    edit_s = sum(row.times.get("edit_s", 0.0) for row in ended)
    score_s = sum(row.times.get("score_s", 0.0) for row in scored)
    models_s = sum(row.times.get("score_s", 0.0) for row in models)
    rest_s = max(0.0, seconds - edit_s - score_s - models_s)
    return MeasuredUnit(records, len(scored), len(models), edit_s, score_s, models_s, rest_s)


def _stored(
    plan: Plan, cell: Cell, rows: Sequence[Row], folder: Path
) -> tuple[float, float, float]:
    """Bytes of a row in a store, rows that are stored in a second, and bytes of a request."""
    requests = {record.case_id: record.requests for record in plan.records[:_STORED_ROWS]}
    many = [
        dataclasses.replace(rows[i % len(rows)], case_id=i, checkpoint=0)
        for i in range(max(_STORED_ROWS, len(rows)))
    ]
    path = folder / cell.fingerprint / STORE_FILE
    with Store(path) as store:
        sizes = [_size(path)]
        started = time.perf_counter()
        for start in range(0, len(many), plan.batch):
            store.put_rows(cell.fingerprint, many[start : start + plan.batch])
        seconds = time.perf_counter() - started
        sizes.append(_size(path))
        store.put_requests("sample", requests)
    of_rows, of_requests = sizes[1] - sizes[0], _size(path) - sizes[1]
    return of_rows / len(many), len(many) / seconds, of_requests / len(requests)


def _size(path: Path) -> int:
    """Bytes of a store with all of its rows in its file."""
    import sqlite3

    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    return path.stat().st_size
