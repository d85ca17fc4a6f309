"""The arithmetic of a prediction, on samples made up for it."""

from __future__ import annotations

import dataclasses
import math

import pytest

from editkit.benchmark.intervals import student_t
from editkit.doctor.prediction import RAY_START_S, Load, Prediction, Totals, predict, scheduled
from editkit.doctor.sample import CellSample, MeasuredUnit, Sample
from editkit.regimes import INDEPENDENT, Regime
from editkit.results import Cell


def cell(editor: str, regime: Regime = INDEPENDENT) -> Cell:
    return Cell(editor, None, {}, {}, "d", "1", 0, editor, {}, regime.to_dict())


def batch(seconds: float, records: int = 20) -> MeasuredUnit:
    return MeasuredUnit(records, records, 0, 0.5 * seconds, 0.3 * seconds, 0.0, 0.2 * seconds)


def predicted(
    sample: Sample, *, records: int, workers: int, batch: int = 20
) -> tuple[Prediction, Totals]:
    prediction = predict(sample, records=records, batch=batch, workers=workers, available=500)
    assert prediction.totals is not None
    return prediction, prediction.totals


SAMPLE = Sample(
    cells=(
        CellSample(cell("slow"), 30.0, 5.0, (batch(9), batch(11)), store_bytes=1000.0),
        CellSample(cell("fast"), 0.0, 1.0, (batch(1), batch(1)), store_bytes=1000.0),
    ),
    startup_s=7.0,
    base_bytes=400,
    peak_bytes=1000,
    gpu_bytes=0,
    store_rows_per_s=1000.0,
    request_bytes=100.0,
    threads=1,
    cores=8,
    seconds=30.0,
)


def test_one_worker_does_everything_in_turn() -> None:
    prediction, totals = predicted(SAMPLE, records=210, workers=1)
    slow, fast = prediction.cells
    assert (slow.units, slow.rows, slow.record_s) == (11, 210, pytest.approx(0.5))
    assert totals.wall_s == pytest.approx(7 + (30 + 5 + 105) + (1 + 10.5))
    assert totals.busy == 1.0
    assert totals.worker_bytes == totals.machine_bytes == 1000
    assert totals.store_bytes == 2 * 210 * 1000 + 210 * 100
    spread = math.sqrt((0.1**2 + 0.1**2) / 2)  # two editors, one degree of freedom each
    half = student_t(2) * spread / math.sqrt(2)
    assert slow.half_width_s == pytest.approx(half * 105)
    assert fast.half_width_s == pytest.approx(half * 10.5)
    assert totals.high_s is not None
    relative = half * math.hypot(105, 10.5) / 115.5
    assert totals.high_s - totals.wall_s == pytest.approx(relative * (146.5 + 5))


def test_workers_share_batches_prepare_on_their_own_and_wait_for_statistics_once() -> None:
    _, one = predicted(SAMPLE, records=2000, workers=1)
    prediction, eight = predicted(SAMPLE, records=2000, workers=8)
    work = (one.wall_s - 7 - 30 - 6) / 8
    assert eight.startup_s == 7 + RAY_START_S
    assert work < eight.wall_s - eight.startup_s < work + 30 + 6 + 11
    assert eight.machine_bytes == 8 * 1000 + eight.driver_bytes
    assert any("the dataset has 500 records" in note for note in prediction.notes)


def test_a_hundred_million_records_are_scheduled_in_blocks() -> None:
    _, small = predicted(SAMPLE, records=2_000_000, workers=8)
    _, large = predicted(SAMPLE, records=100_000_000, workers=8)
    once = 7 + RAY_START_S + 30 + 5
    assert large.wall_s - once == pytest.approx(50 * (small.wall_s - once), rel=1e-3)
    assert large.store_bytes == 50 * small.store_bytes
    assert large.useful_workers == 2 * 5_000_000
    _, many = predicted(SAMPLE, records=40, workers=10**12)
    assert many.busy == pytest.approx(0.0, abs=1e-9)


def test_more_workers_than_units_are_idle() -> None:
    regime = Regime.sequential(100, step=10, checkpoints=[10, 100])
    unit = MeasuredUnit(40, 50, 2, 8.0, 5.0, 6.0, 2.0)
    shared = CellSample(cell("memit", regime), 0.0, 0.0, (unit,), file_bytes=4000, dense_bytes=5000)
    sample = dataclasses.replace(SAMPLE, cells=(shared,))
    prediction, totals = predicted(sample, records=300, workers=4)
    [own] = prediction.cells
    assert own.units == totals.useful_workers == 3
    assert own.rows == 3 * 110
    one = 100 * (8 + 2) / 40 + 110 * 5 / 50 + 2 * 6 / 2
    assert totals.wall_s == pytest.approx(7 + RAY_START_S + one)
    assert totals.low_s is None  # one unit has no spread
    assert totals.sequence_bytes == 3 * 9000  # never more than dense, with the state
    assert any("only 3 units" in note for note in prediction.notes)
    assert any("scaled: memit (sequential 100" in note for note in prediction.notes)


def test_the_driver_can_be_the_limit() -> None:
    sample = dataclasses.replace(SAMPLE, store_rows_per_s=10.0)
    _, totals = predicted(sample, records=2000, workers=1000)
    assert totals.limited_by_driver
    assert totals.wall_s == pytest.approx(7 + RAY_START_S + 4000 / 10)


def test_an_editor_that_was_not_measured_leaves_no_totals() -> None:
    skipped = CellSample(cell("mend"), skipped="every record of its sample failed: no")
    sample = dataclasses.replace(SAMPLE, cells=(*SAMPLE.cells, skipped))
    prediction = predict(sample, records=210, batch=20, workers=1, available=500)
    document = prediction.document()
    assert document["wall_s"] is document["low_s"] is document["store_bytes"] is None
    assert document["cells"][0]["work_s"] > 0
    [note] = prediction.notes
    assert note == ("no prediction: mend was not measured: every record of its sample failed: no")


@pytest.mark.parametrize(
    ("loads", "workers", "end", "idle"),
    [
        ([Load([1.0] * 6)], 3, 2.0, 0.0),
        ([Load([1.0] * 4)], 3, 2.0, 2.0),
        ([Load([1.0], prepare_s=2.0), Load([1.0])], 1, 4.0, 0.0),
        ([Load([1.0], prepare_s=2.0), Load([1.0])], 2, 3.0, 2.0),
        ([Load([1.0, 1.0], prepare_s=1.0, statistics_s=5.0)], 2, 7.0, 0.0),  # both wait for them
        ([], 2, 0.0, 0.0),
    ],
)
def test_units_are_handed_out_as_they_become_free(
    loads: list[Load], workers: int, end: float, idle: float
) -> None:
    schedule = scheduled(loads, workers)
    assert (schedule.end_s, schedule.idle_s) == (end, idle)
