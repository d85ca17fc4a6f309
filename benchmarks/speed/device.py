"""Measure on one device within some minutes: every case prints and stores its result at once.

Also checks that the device computes what the CPU computes: SmolLM2's scores, and the tests that are
marked ``gpu``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from editkit import EditedModels, EditkitError, LanguageModel, UsageError, WeightDelta, load_model
from editkit.editing.edited_models import CandidateQuery
from editkit_benchmarks.speed.device_cases import CASES, FEW, Amounts, Bench, DeviceCase
from editkit_benchmarks.speed.limits import Rates
from editkit_benchmarks.speed.names import DEVICE, SAME_AS_CPU, TESTS
from editkit_benchmarks.speed.shapes import SHAPES, first_records
from editkit_benchmarks.speed.timing import document

Result = dict[str, Any]

_GOALS_ARE_FOR = ("gpt2-xl", "H100")  # shape, and what is in the name of the card
_ROOT = Path(__file__).resolve().parents[2]
_REPEATS = 3
_ENOUGH_S = 10.0  # a case that took this long is not repeated
_TOLERANCE = 1e-3  # of scores in nats, as in the tests marked gpu
_SCORED = 4  # records


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and where.

    Attributes:
        device: ``cuda`` or ``cpu``.
        shape: Name of the shape of most cases.
        half: Name of the shape of the cases in bfloat16.
        minutes: What does not fit is named, not measured.
        out: File for the results, rewritten after each case.
        cases: Cases and checks to run, in this order.
    """

    device: str
    shape: str
    half: str
    minutes: float
    out: Path
    cases: Sequence[str] = DEVICE

    @classmethod
    def of(
        cls,
        device: str,
        *,
        minutes: float,
        out: Path,
        shape: str | None = None,
        cases: Sequence[str] = (),
    ) -> Options:
        """The options of a device: large shapes on a GPU, tiny ones on a CPU.

        Raises:
            UsageError: There is no GPU.
        """
        on_gpu = device.startswith("cuda")
        if on_gpu and not torch.cuda.is_available():
            raise UsageError(
                f"--device {device}: torch {torch.__version__} sees no GPU.",
                hint="Install a build of torch for your GPU, or try the script on the CPU: "
                "--device cpu --shape tiny.",
            )
        shape = shape or ("gpt2-xl" if on_gpu else "tiny")
        half = "llama-8b" if SHAPES[shape].needs_gpu else "tiny-llama"
        return cls(device, shape, half, minutes, out, tuple(cases) or DEVICE)


class _OutOfTimeError(BaseException):
    """Ends a case; not an Exception, so that no code on the way handles it."""


def measure(options: Options, show: Callable[[str], None]) -> dict[str, Any]:
    """Run all cases and checks that fit in the time.

    Args:
        options: What to measure.
        show: Prints a text.

    Returns:
        The JSON document that is also in ``options.out``.
    """
    ends = time.monotonic() + 60 * options.minutes
    if options.device.startswith("cuda:"):
        torch.cuda.set_device(options.device)
    amounts = FEW if options.shape.startswith("tiny") else Amounts()
    bench = Bench(options.device, shape=options.shape, half=options.half, amounts=amounts)
    rates = {dtype: Rates(options.device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    results: list[Result] = []
    answer: dict[str, Any] = {}
    show(f"{_card(options.device)}: {bench.shape('main').title}, {bench.shape('half').title}\n")
    with _own_cache():
        for name in options.cases:
            result = _one(name, bench, rates, ends)
            results.append(result)
            show(_line(result))
            answer = document("device", options.device, results, *rates.values())
            answer["machine"]["card"] = _card(options.device)
            _write(options.out, answer)
    return answer


def _one(name: str, bench: Bench, rates: dict[torch.dtype, Rates], ends: float) -> Result:
    """The result of one case or check; why there is none, if there is none."""
    left = ends - time.monotonic()
    if left <= 0:
        return {"case": name, "not_run": "no time was left"}
    started = time.monotonic()
    try:
        with _at_most(left):
            if name == TESTS:
                return {"case": name, **_run_tests(left)}
            if name == SAME_AS_CPU:
                return {"case": name, **_same_as_cpu(bench.device)}
            return {"case": name, **_timed(CASES[name], bench, rates)}
    except _OutOfTimeError:
        spent = time.monotonic() - started
        return {"case": name, "not_run": f"not finished after {spent:.0f} s"}
    except Exception as error:
        return {"case": name, "failed": f"{type(error).__name__}: {error}"[:400]}


def _timed(case: DeviceCase, bench: Bench, rates: dict[torch.dtype, Rates]) -> Result:
    """Seconds per unit, the best of a few runs, with the peak memory of the device."""
    on_gpu = bench.device.startswith("cuda")
    work = case.make(bench)
    shape = bench.shape(case.which)
    goal_shape, goal_card = _GOALS_ARE_FOR
    has_goals = bench.shapes["main"] == goal_shape and goal_card in _card(bench.device)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    while len(seconds) < _REPEATS and sum(seconds) < _ENOUGH_S:
        _wait(bench.device)
        start = time.perf_counter()
        work.run()
        _wait(bench.device)
        seconds.append(time.perf_counter() - start)
    per_unit = min(seconds) / work.units
    result: Result = {
        "title": f"{shape.title}: {case.unit}",
        "units": work.units,
        "seconds_per_unit": per_unit,
        "goal_s": case.goal_s if has_goals else None,
        "runs": len(seconds),
        "peak_mb": round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else None,
    }
    if work.needed is not None:
        limit = rates[shape.dtype].limit(work.needed.times(1 / work.units))
        result["limit"] = limit.to_dict(per_unit)
    return result


def _wait(device: str) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


# ---------------------------------------------------------------- the same as on the CPU


def _same_as_cpu(device: str) -> Result:
    """SmolLM2's scores on the device and on the CPU, float32."""
    if torch.device(device).type == "cpu":
        return {"skipped": "the device is the CPU"}
    try:
        on_cpu = load_model("smollm2")
    except EditkitError as error:
        return {"not_run": str(error)}
    expected = _nll(on_cpu)
    actual = _nll(load_model("smollm2", device=device))
    largest = max(abs(a - b) for a, b in zip(actual, expected, strict=True))
    title = f"SmolLM2's scores of {_SCORED} records on {device} and on the CPU"
    result: Result = {"title": title, "largest_difference": largest, "tolerance": _TOLERANCE}
    if largest > _TOLERANCE:
        result["failed"] = f"scores differ by up to {largest:.2g} nats"
    return result


def _nll(model: LanguageModel) -> list[float]:
    """NLL of both answers at the prompts of some records, unedited."""
    nothing = [
        WeightDelta({}, record.request, "none", {}, model.fingerprint)
        for record in first_records(_SCORED)
    ]
    queries = [
        CandidateQuery(edit, probe.prompt, (probe.target_new, probe.target_true))
        for edit, record in enumerate(first_records(_SCORED))
        for probe in (*record.probes["rewrite"], *record.probes["neighborhood"])
    ]
    rows = EditedModels(model, nothing).candidate_nll(queries)
    return [nll for row in rows for nll in row]


def _run_tests(seconds: float) -> Result:
    """The tests marked ``gpu``, in a process of their own."""
    if not (_ROOT / "tests" / "test_gpu.py").is_file():
        return {"skipped": "the tests are only in a clone"}
    if importlib.util.find_spec("pytest") is None:
        return {"skipped": "pytest is not installed (pip install -e '.[test]')"}
    command = (
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-n",
        "0",
        "-q",
        "-p",
        "no:cacheprovider",
    )
    try:
        done = subprocess.run(
            [*command, "tests/test_gpu.py"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"not_run": f"not finished after {seconds:.0f} s"}
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-400:]]
    result: Result = {"title": f"tests marked gpu: {lines[-1].strip('= ')}"}
    if done.returncode:
        result["failed"] = "\n".join(line for line in lines if line.startswith("FAILED"))
        result["failed"] = result["failed"] or f"pytest ended with {done.returncode}"
    elif "passed" not in lines[-1]:
        result["not_run"] = f"torch sees no GPU ({lines[-1].strip('= ')})"
    return result


# ---------------------------------------------------------------- time, files, text


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """End the block after some seconds, where the system has timers for the main thread."""
    timers = hasattr(signal, "setitimer")
    if not timers or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_: int, __: FrameType | None) -> None:
        raise _OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _own_cache() -> Iterator[None]:
    """A cache that is deleted at the end: statistics of random weights are of no use later."""
    before = os.environ.get("EDITKIT_CACHE")
    with tempfile.TemporaryDirectory(prefix="editkit-speed-") as folder:
        os.environ["EDITKIT_CACHE"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["EDITKIT_CACHE"]
            else:
                os.environ["EDITKIT_CACHE"] = before


def _card(device: str) -> str:
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return "CPU"


def _write(path: Path, answer: dict[str, Any]) -> None:
    path.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")


def _line(result: Result) -> str:
    name = f"{result['case']:18}"
    for key in ("failed", "skipped", "not_run"):
        if key in result:
            return f"{name} {key.replace('_', ' ')}: {result[key]}\n"
    if "seconds_per_unit" not in result:
        return f"{name} {result['title']}{_difference(result)}\n"
    seconds = result["seconds_per_unit"]
    goal = "" if result["goal_s"] is None else f" (goal {_duration(result['goal_s'])})"
    line = f"{name} {_duration(seconds)}{goal}, {1 / seconds:,.1f} per second: {result['title']}\n"
    details = []
    if result["peak_mb"] is not None:
        details.append(f"peak memory {result['peak_mb']:,} MB")
    if limit := result.get("limit"):
        details.append(
            f"{limit['share_of_limit']:.1%} of the limit, {_duration(limit['limit_ms'] / 1000)} "
            f"for {limit['flops'] / 1e9:,.2f} GFLOP; bound by {limit['bound_by']}"
        )
    return line + (f"{'':18} {'; '.join(details)}\n" if details else "")


def _difference(result: Result) -> str:
    if "largest_difference" not in result:
        return ""
    return f": largest difference {result['largest_difference']:.1e} nats"


def _duration(seconds: float) -> str:
    """A duration in the unit that suits it: ``1.20 s``, ``35.0 ms``, ``12.0 us``."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1 or (unit == "s" and seconds >= 0.1):
            return f"{seconds * factor:,.3g} {unit}"
    return f"{seconds * 1e6:,.3g} us"
