"""From a measured sample to the time, memory and disk of a whole run.

**Time.** A unit of work (a batch, or a group of facts that share a model) takes

    records * edit + rows * score + rows of models * score of a model + records * rest

with the mean of the sample for each. Units are handed to workers as a run does it, each worker
prepares an editor when it turns to it, and the first one to do so computes its statistics, which
the others wait for. The last worker ends the run, unless the driver stores rows more slowly. With
several workers, the start of Ray comes on top: a constant, which is not measured.

**Interval.** The relative deviations of all measured units from the means of their editors are
pooled: s, with as many degrees of freedom as measured units less editors. The mean of an editor
with k units then varies by s / sqrt(k), and the interval is Student's t. Editors vary on their own,
so the half-widths of the total add as the root of the sum of squares.

Sizes of the sample are scaled in proportion to records, except that a delta never has more than all
values of the weights that it changes.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from editkit.benchmark.driver import next_cell
from editkit.benchmark.intervals import student_t
from editkit.doctor.sample import CellSample, MeasuredUnit, Sample
from editkit.regimes import Regime
from editkit.reprs import counted

__all__ = ["CellPrediction", "Load", "Prediction", "Schedule", "Totals", "predict", "scheduled"]


@dataclasses.dataclass(frozen=True)
class CellPrediction:
    """What is predicted for a cell.

    Attributes:
        editor: Name of the editor.
        regime: How its facts reach models.
        seed: Its seed.
        skipped: Why there is no prediction; empty otherwise.
        measured: Records of the sample, without those that warmed up.
        warm: Whether a unit was done before the measured ones.
        statistics_s: Seconds to compute statistics, once.
        prepare_s: Seconds to prepare the editor, on each worker that uses it.
        record_s: Seconds per record, preparation apart, at all checkpoints.
        work_s: Seconds of all its units on one worker.
        half_width_s: Half of the 95% interval of ``work_s``; None with too small a sample.
        units: Units of work: at most as many workers can share it.
        rows: Rows of records in the store, at all checkpoints.
        store_bytes: Bytes of its rows.
        sequence_bytes: Bytes of the deltas of its groups.
    """

    editor: str
    regime: Regime
    seed: int
    skipped: str = ""
    measured: int = 0
    warm: bool = True
    statistics_s: float = 0.0
    prepare_s: float = 0.0
    record_s: float = 0.0
    work_s: float = 0.0
    half_width_s: float | None = None
    units: int = 0
    rows: int = 0
    store_bytes: int = 0
    sequence_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Totals:
    """What is predicted for all cells together.

    Attributes:
        wall_s: Seconds from start to end.
        low_s: Lower end of the 95% interval of ``wall_s``; None with too small a sample.
        high_s: Its upper end.
        startup_s: Seconds until a worker can edit, with ``ray_start_s``.
        ray_start_s: Seconds to start Ray, a constant; 0 with one worker.
        busy: Share of the workers' time that they compute.
        useful_workers: Further workers would not shorten the run.
        rows_per_s: Rows that the workers make per second.
        driver_rows_per_s: Rows that the driver can store per second.
        limited_by_driver: Whether the driver ends the run.
        worker_bytes: Peak memory of a worker.
        worker_gpu_bytes: Peak memory of its GPU; 0 without one.
        driver_bytes: Peak memory of the driver beside workers; 0 if it is the only worker.
        machine_bytes: Memory of a machine with the driver and all workers.
        store_bytes: Size of ``results.sqlite``.
        sequence_bytes: Size of the folder ``sequences``.
    """

    wall_s: float
    low_s: float | None
    high_s: float | None
    startup_s: float
    ray_start_s: float
    busy: float
    useful_workers: int
    rows_per_s: float
    driver_rows_per_s: float
    limited_by_driver: bool
    worker_bytes: int
    worker_gpu_bytes: int
    driver_bytes: int
    machine_bytes: int
    store_bytes: int
    sequence_bytes: int


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What is predicted for a run.

    Attributes:
        records: Its records.
        available: Records of the dataset.
        workers: Its workers.
        cells: Its cells in order.
        totals: The sums; None if a cell could not be measured.
        sample_s: Seconds that the sample took.
        notes: What limits the prediction.
    """

    records: int
    available: int
    workers: int
    cells: tuple[CellPrediction, ...]
    totals: Totals | None
    sample_s: float
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The prediction as plain data, with the totals at its top; without them, nulls."""
        totals = {field.name: None for field in dataclasses.fields(Totals)}
        if self.totals is not None:
            totals = dataclasses.asdict(self.totals)
        own = dataclasses.asdict(self)
        del own["totals"]
        cells = [
            {**dataclasses.asdict(cell), "regime": cell.regime.to_dict()} for cell in self.cells
        ]
        return {**own, **totals, "cells": cells, "notes": list(self.notes)}


@dataclasses.dataclass(frozen=True)
class Load:
    """The work of a cell: its units in seconds, and what comes before the first one."""

    units: Sequence[float]
    prepare_s: float = 0.0
    statistics_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Seconds until the last worker ends, and those that the others wait for it, summed."""

    end_s: float
    idle_s: float


ROW_BYTES_IN_DRIVER = 12
"""Bytes in memory of the driver for each byte of a row in the store, while a cell is tabulated."""

RAY_START_S = 8.0
"""Seconds until Ray has started on an idle machine; it takes 5 to 10."""

# A schedule with more units than both of these is computed in blocks of units.
_MOST_UNITS = 100_000
_UNITS_PER_WORKER = 20


def predict(
    sample: Sample, *, records: int, batch: int, workers: int, available: int
) -> Prediction:
    """The prediction for a run.

    Args:
        sample: What was measured.
        records: Records of the run.
        batch: Records of a batch.
        workers: Workers, each as fast as this process.
        available: Records of the dataset.
    """
    spread, freedom = _pooled(sample.cells)
    most = max(_MOST_UNITS, _UNITS_PER_WORKER * workers) // max(1, len(sample.cells))
    pairs = [_cell(each, records, batch, spread, freedom, most) for each in sample.cells]
    cells = tuple(cell for cell, _ in pairs)
    notes = _notes(sample, cells, records, available)
    totals = None
    if not any(cell.skipped for cell in cells):
        schedule = scheduled([load for _, load in pairs], workers)
        notes += _notes_on_workers(sample, cells, schedule, workers)
        totals = _totals(sample, cells, schedule, records, workers, has_interval=freedom > 0)
    return Prediction(records, available, workers, cells, totals, sample.seconds, tuple(notes))


def _totals(
    sample: Sample,
    cells: Sequence[CellPrediction],
    schedule: Schedule,
    records: int,
    workers: int,
    *,
    has_interval: bool,
) -> Totals:
    n_rows = sum(cell.rows for cell in cells)
    driver_s = n_rows / sample.store_rows_per_s if sample.store_rows_per_s else 0.0
    ray_start_s = RAY_START_S if workers > 1 else 0.0
    startup_s = sample.startup_s + ray_start_s
    wall = startup_s + max(schedule.end_s, driver_s)
    work = sum(cell.work_s for cell in cells)
    half_width = None
    if has_interval and work:
        relative = math.hypot(*(cell.half_width_s or 0.0 for cell in cells)) / work
        half_width = relative * schedule.end_s
    largest = max((cell.store_bytes for cell in cells), default=0)
    driver_bytes = sample.base_bytes + ROW_BYTES_IN_DRIVER * largest if workers > 1 else 0
    return Totals(
        wall_s=wall,
        low_s=None if half_width is None else max(0.0, wall - half_width),
        high_s=None if half_width is None else wall + half_width,
        startup_s=startup_s,
        ray_start_s=ray_start_s,
        busy=1 - schedule.idle_s / (workers * schedule.end_s) if schedule.end_s else 0.0,
        useful_workers=sum(cell.units for cell in cells),
        rows_per_s=n_rows / schedule.end_s if schedule.end_s else 0.0,
        driver_rows_per_s=sample.store_rows_per_s,
        limited_by_driver=driver_s > schedule.end_s,
        worker_bytes=sample.peak_bytes,
        worker_gpu_bytes=sample.gpu_bytes,
        driver_bytes=driver_bytes,
        machine_bytes=driver_bytes + workers * sample.peak_bytes,
        store_bytes=sum(cell.store_bytes for cell in cells) + round(records * sample.request_bytes),
        sequence_bytes=sum(cell.sequence_bytes for cell in cells),
    )


def scheduled(loads: Sequence[Load], workers: int) -> Schedule:
    """Hand units to workers as the driver of a run does, and see when the last one ends."""
    waiting = {cell: deque(load.units) for cell, load in enumerate(loads)}
    busy: Counter[int] = Counter()
    ready: dict[int, float] = {}  # when the statistics of a cell are in the cache
    useful = min(workers, sum(len(load.units) for load in loads))
    free: deque[tuple[float, int, int | None]] = deque((0.0, each, None) for each in range(useful))
    running: list[tuple[float, int, int]] = []  # a heap: end, worker, cell
    ends = [0.0] * useful
    while free or running:
        if not free:
            now, worker, done = heapq.heappop(running)
            busy[done] -= 1
            ends[worker] = now
            free.append((now, worker, done))
        now, worker, last = free.popleft()
        cell = next_cell(waiting, busy, last)
        if cell is None:
            continue
        begin = now
        if cell != last:
            begin = max(now, ready.setdefault(cell, now + loads[cell].statistics_s))
            begin += loads[cell].prepare_s
        busy[cell] += 1
        heapq.heappush(running, (begin + waiting[cell].popleft(), worker, cell))
    end_s = max(ends, default=0.0)
    return Schedule(end_s, sum(end_s - end for end in ends) + (workers - useful) * end_s)


def _pooled(cells: Sequence[CellSample]) -> tuple[float, int]:
    """The relative standard deviation of units from the mean of their cell, and its freedom."""
    squares, freedom = 0.0, 0
    for cell in cells:
        costs = [unit.seconds / unit.records for unit in cell.units]
        if len(costs) > 1 and (mean := sum(costs) / len(costs)):
            squares += sum((cost / mean - 1) ** 2 for cost in costs)
            freedom += len(costs) - 1
    return math.sqrt(squares / freedom) if freedom else 0.0, freedom


def _cell(
    sample: CellSample, records: int, batch: int, spread: float, freedom: int, most: int
) -> tuple[CellPrediction, Load]:
    regime = sample.cell.regime
    own = CellPrediction(sample.cell.editor, regime, sample.cell.seed, sample.skipped)
    if sample.skipped:
        return own, Load(())
    sizes = _sizes(regime, records, batch)
    seconds = {size: _seconds(regime, sample.units, size) for size in sizes}
    n = sum(size * times for size, times in sizes.items())
    n_units = sum(sizes.values())
    n_rows = n
    if not regime.is_independent:
        n_rows = sum(
            times * sum(mark or size for mark in regime.checkpoints_of(size))
            for size, times in sizes.items()
        )
    work = sum(seconds[size] * times for size, times in sizes.items())
    half_width = None
    if freedom:
        half_width = student_t(freedom) * spread / math.sqrt(len(sample.units)) * work
    of_sample = max((unit.records for unit in sample.units), default=1)
    files = sum(
        times * min(sample.file_bytes * size / of_sample, _most(sample))
        for size, times in sizes.items()
    )
    block = math.ceil(n_units / most)
    units = [
        seconds[size] * min(block, times - start)
        for size, times in sizes.items()
        for start in range(0, times, block)
    ]
    return (
        dataclasses.replace(
            own,
            measured=sum(unit.records for unit in sample.units),
            warm=sample.warm,
            statistics_s=sample.statistics_s,
            prepare_s=sample.prepare_s,
            record_s=work / n if n else 0.0,
            work_s=work,
            half_width_s=half_width,
            units=n_units,
            rows=n_rows,
            store_bytes=round(n_rows * sample.store_bytes),
            sequence_bytes=round(files),
        ),
        Load(units, sample.prepare_s, sample.statistics_s),
    )


def _sizes(regime: Regime, records: int, batch: int) -> dict[int, int]:
    """How many units of work have how many records, the last one being shorter."""
    size = batch if regime.is_independent else regime.facts
    whole, rest = divmod(records, size)
    sizes = {size: whole, rest: 1}
    if not regime.is_independent and regime.groups is not None and regime.groups <= whole:
        sizes = {size: regime.groups}
    return {size: times for size, times in sizes.items() if size and times}


def _seconds(regime: Regime, units: Sequence[MeasuredUnit], size: int) -> float:
    """The seconds of a unit with ``size`` records."""

    def per(seconds: str, count: str) -> float:
        total = sum(getattr(unit, count) for unit in units)
        return sum(getattr(unit, seconds) for unit in units) / total if total else 0.0

    edit, rest = per("edit_s", "records"), per("rest_s", "records")
    if regime.is_independent:
        return size * (edit + per("score_s", "scored") + rest)
    marks = [mark or size for mark in regime.checkpoints_of(size)]
    scores = sum(marks) * per("score_s", "scored") + len(marks) * per("models_s", "models")
    return size * (edit + rest) + scores


def _most(sample: CellSample) -> float:
    """Most bytes of a group's files: a dense delta, and the state as it is in the sample."""
    return sample.dense_bytes + sample.file_bytes if sample.dense_bytes else math.inf


def _notes(
    sample: Sample,
    cells: Sequence[CellPrediction],
    records: int,
    available: int,
) -> list[str]:
    notes = []
    skipped = [f"{cell.editor} was not measured: {cell.skipped}" for cell in cells if cell.skipped]
    if skipped:
        notes.append(f"no prediction: {'; '.join(skipped)}")
    cold = [cell.editor for cell in cells if not cell.skipped and not cell.warm]
    if cold:
        notes.append(f"measured without a warm-up, which makes them slower: {', '.join(cold)}")
    if records > available:
        notes.append(f"the dataset has {available:,} records: the sample stands for all others")
    short = [
        f"{cell.editor} ({cell.regime.label})"
        for cell, each in zip(cells, sample.cells, strict=True)
        if each.units
        and not cell.regime.is_independent
        and max(unit.records for unit in each.units) < cell.regime.facts
    ]
    if short:
        notes.append(f"measured with fewer facts in a model, and scaled: {', '.join(short)}")
    return notes


def _notes_on_workers(
    sample: Sample, cells: Sequence[CellPrediction], schedule: Schedule, workers: int
) -> list[str]:
    notes = []
    idle = schedule.idle_s / schedule.end_s if schedule.end_s else 0.0
    if idle >= 1:
        n_units = sum(cell.units for cell in cells)
        why = f": the work has only {counted(n_units, 'unit')}" if n_units < workers else ""
        notes.append(f"on average {idle:.1f} of {workers} workers are idle{why}")
    if workers * sample.threads > sample.cores:
        notes.append(
            f"{counted(workers, 'worker')} with {counted(sample.threads, 'thread')} each "
            f"{'needs' if workers == 1 else 'need'} "
            f"{counted(workers * sample.threads, 'processor')}; this machine has {sample.cores}. "
            "On it, the time would be about "
            f"{workers * sample.threads / sample.cores:.1f} times as long"
        )
    return notes
