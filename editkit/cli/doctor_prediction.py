"""``editkit doctor --records``: a prediction from a measured sample, and its text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from editkit.benchmark.layer_by_locator import choose_layers
from editkit.benchmark.plan import make_plan
from editkit.benchmark.spec import Benchmark, PluginValues
from editkit.doctor.diagnose import RESULTS_MB, Diagnosis, size
from editkit.progress import show_progress
from editkit.registry.plugins import Registry
from editkit.reprs import counted
from editkit.terminal import aligned, wrapped

if TYPE_CHECKING:
    from editkit.doctor.prediction import CellPrediction, Prediction, Totals

__all__ = ["prediction_of", "prediction_text"]


def prediction_of(
    benchmark: Benchmark,
    values: PluginValues,
    registry: Registry,
    diagnosis: Diagnosis,
    *,
    place: str,
    workers: int,
    seconds: float,
    optional: bool,
) -> Prediction:
    """Measure a sample of a benchmark and predict a run.

    Args:
        benchmark: The benchmark; its ``limit`` is the number of records of the run.
        values: Config values from the command line.
        registry: Provides plugins.
        diagnosis: What was checked before.
        place: Name of the benchmark file, for error messages.
        workers: Workers of the run.
        seconds: Time limit of the sample, without start-up and statistics.
        optional: Whether editors that cannot edit the model are left out.
    """
    from editkit.doctor.prediction import predict
    from editkit.doctor.sample import measure

    benchmark, values, _ = choose_layers(benchmark, values, registry)
    plan = make_plan(benchmark, registry, place=place, values=values, leave_out=optional)
    with show_progress():
        sample = measure(plan, registry, seconds=seconds, to_compute=diagnosis.to_compute)
    available = len(plan.records)  # at most the limit
    return predict(
        sample,
        records=benchmark.limit or available,
        batch=plan.batch,
        workers=workers,
        available=available,
    )


def prediction_text(prediction: Prediction) -> str:
    """The prediction as lines and a table."""
    head = ("editor", "regime", "statistics", "prepare", "s/record", "measured", "one worker")
    rows = [head, *map(_line, prediction.cells)]
    title = (
        f"Prediction for {counted(prediction.records, 'record')} and {_workers(prediction)}, "
        f"from a sample of {_duration(prediction.sample_s)}"
    )
    facts = aligned(_facts(prediction, prediction.totals)) if prediction.totals else ""
    notes = "".join(wrapped(f"note: {note}") for note in prediction.notes)
    return f"{title}\n{aligned(rows)}{facts}{notes}"


def _workers(prediction: Prediction) -> str:
    return counted(prediction.workers, "worker")


def _facts(prediction: Prediction, totals: Totals) -> list[tuple[str, str]]:
    one = prediction.workers == 1
    gpu = f" and {size(totals.worker_gpu_bytes)} of a GPU" * bool(totals.worker_gpu_bytes)
    together = (
        ""
        if one
        else f", {size(totals.machine_bytes)} on one machine with all of them and the driver "
        f"({size(totals.driver_bytes)})"
    )
    sequences = ""
    if totals.sequence_bytes:
        sequences = f", about {size(totals.sequence_bytes)} of deltas in sequences/"
    in_check = totals.store_bytes + totals.sequence_bytes <= RESULTS_MB * 2**20
    free = f"{'within' if in_check else 'more than'} the {RESULTS_MB} MiB that the check keeps free"
    ray = "" if one else f", with {totals.ray_start_s:.0f} s for the start of Ray"
    return [
        ("time", f"{_with_interval(totals)}; {totals.startup_s:.0f} s of it start-up{ray}"),
        ("memory", f"about {size(totals.worker_bytes)}{gpu} per worker{together}"),
        ("disk", f"about {size(totals.store_bytes)} of results.sqlite{sequences}, {free}"),
        ("driver", _of_driver(totals)),
    ]


def _line(cell: CellPrediction) -> tuple[str, ...]:
    if cell.skipped:
        return (cell.editor, cell.regime.label, "", "", "", "-", "not measured")
    half = f" ±{cell.half_width_s / cell.work_s:.0%}" if cell.half_width_s and cell.work_s else ""
    return (
        cell.editor,
        cell.regime.label,
        _duration(cell.statistics_s) if cell.statistics_s else "-",
        _duration(cell.prepare_s),
        f"{cell.record_s:.3f}",
        str(cell.measured),
        f"{_duration(cell.work_s)}{half}",
    )


def _with_interval(totals: Totals) -> str:
    if totals.low_s is None or totals.high_s is None:
        return f"about {_duration(totals.wall_s)} (one measured batch gives no interval)"
    return (
        f"about {_duration(totals.wall_s)}, {_duration(totals.low_s)} to {_duration(totals.high_s)}"
    )


def _of_driver(totals: Totals) -> str:
    takes = f"stores up to {totals.driver_rows_per_s:,.0f} rows a second"
    makes = f"the workers make {totals.rows_per_s:,.1f}"
    return f"{takes}, {makes}{': it limits the run' if totals.limited_by_driver else ''}"


def _duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``5 min 10 s``, ``3 h 20 min``, ``2 d 5 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, length, smaller, part in _UNITS:
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit}" + f" {rest} {smaller}" * bool(rest)
    return f"{whole} s"


_UNITS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))
