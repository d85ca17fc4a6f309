"""A hook that observes changes nothing in the process, and Ctrl-C is the user's."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from editkit.registry.guard import PluginFailure, call_guarded


def snapshot() -> dict[str, Any]:
    return {
        "folder": Path.cwd(),
        "environment": dict(os.environ),
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "device": torch.get_default_device(),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "streams": (sys.stdout, sys.stderr),
        "recursion": sys.getrecursionlimit(),
        "gc": gc.isenabled(),
        "tracing": (sys.gettrace(), sys.getprofile()),
        "filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "disabled": logging.root.manager.disable,
        "levels": [logging.getLogger(name).level for name in ("", "editkit", "editkit.x")],
        "handlers": [list(logging.getLogger(name).handlers) for name in ("", "editkit")],
        "muted": logging.getLogger("editkit.x").disabled,
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "timer": signal.getitimer(signal.ITIMER_REAL),
    }


def move(tmp: Path) -> None:
    os.chdir(tmp)


def lose_folder(tmp: Path) -> None:
    (tmp / "gone").mkdir()
    os.chdir(tmp / "gone")
    (tmp / "gone").rmdir()


def environ(tmp: Path) -> None:
    os.environ["EDITKIT_CACHE"] = str(tmp)
    os.environ.pop("PATH")


def draw(tmp: Path) -> None:
    random.random()
    np.random.rand()
    torch.rand(1)
    torch.manual_seed(3)


def torch_settings(tmp: Path) -> None:
    torch.set_grad_enabled(not torch.is_grad_enabled())
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)


def torch_device(tmp: Path) -> None:
    torch.set_default_device("meta")


def interpreter(tmp: Path) -> None:
    sys.setrecursionlimit(sys.getrecursionlimit() + 77)
    gc.disable()
    sys.setprofile(lambda *_: None)


def loggers(tmp: Path) -> None:
    logging.disable(logging.CRITICAL)
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger().handlers.clear()
    logging.getLogger("editkit").handlers.clear()
    logging.getLogger("editkit.x").setLevel(logging.CRITICAL)
    logging.getLogger("editkit.x").disabled = True


def filters(tmp: Path) -> None:
    warnings.simplefilter("ignore")
    warnings.showwarning = print  # type: ignore[assignment]


def handlers(tmp: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGUSR1, lambda *_: None)


def alarm(tmp: Path) -> None:
    signal.setitimer(signal.ITIMER_REAL, 30)


def streams(tmp: Path) -> None:
    sys.stdout.close()
    sys.stderr.close()
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115


@pytest.mark.parametrize(
    "change",
    [
        *(move, lose_folder, environ, draw, torch_settings, torch_device, interpreter),
        *(loggers, filters, handlers, alarm, streams),
    ],
)
@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_process_is_left_as_it_was(
    change: Callable[[Path], None], raises: bool, tmp_path: Path
) -> None:
    logging.getLogger("editkit.x")
    before = snapshot()

    def work() -> int:
        change(tmp_path)
        changed.append(True)
        if raises:
            raise ValueError("no")
        return 3

    changed: list[bool] = []
    if raises:
        with pytest.raises(PluginFailure) as caught:
            call_guarded(work)
        assert isinstance(caught.value.error, ValueError)
    else:
        assert call_guarded(work) == 3
    assert changed == [True]
    after = snapshot()
    assert {key for key in before if before[key] != after[key]} == set()


class OfMyOwn(BaseException):
    """Not a subclass of Exception."""


def forever(n: int = 0) -> int:
    return forever(n + 1) + 1


@pytest.mark.parametrize(
    "error", [SystemExit(0), KeyboardInterrupt(), GeneratorExit(), OfMyOwn(), MemoryError()]
)
def test_whatever_a_hook_raises_is_a_failure_of_the_plugin(error: BaseException) -> None:
    def work() -> None:
        raise error

    with pytest.raises(PluginFailure) as caught:
        call_guarded(work)
    assert caught.value.error is error
    with pytest.raises(PluginFailure) as caught:
        call_guarded(forever)
    assert isinstance(caught.value.error, RecursionError)


def swallow() -> None:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(5)
    except BaseException:
        pass


def turn_into_another() -> None:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(5)
    except BaseException:
        raise ValueError("something else") from None


def let_pass() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(5)


@pytest.mark.parametrize("work", [swallow, turn_into_another, let_pass])
def test_ctrl_c_interrupts_even_if_the_plugin_catches_it(
    work: Callable[[], None],
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        call_guarded(work)
    assert signal.getsignal(signal.SIGINT) is before


def test_what_another_signal_handler_raises_passes_too() -> None:
    class Ended(KeyboardInterrupt):
        pass

    def end(*_: object) -> None:
        raise Ended

    earlier = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(Ended):
            call_guarded(lambda: os.kill(os.getpid(), signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_it_works_in_any_thread() -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call_guarded(lambda: 5)))
    thread.start()
    thread.join()
    assert results == [5]


_PRINTING = """
import os, subprocess, sys
from editkit.registry.guard import call_guarded

def work():
    print("a print")
    sys.stdout.write("a write")
    sys.stdout.buffer.write(b"bytes")
    sys.__stdout__.write("the first stream")
    os.write(1, b"the descriptor")
    subprocess.run(["echo", "a child"], check=True)
    print("in red", file=sys.stderr)

sys.stdout.write("before ")
call_guarded(work)
sys.stdout.write("after")
"""


def test_nothing_that_a_hook_prints_reaches_standard_output() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PRINTING], capture_output=True, text=True, check=True
    )
    assert done.stdout == "before after"
    for text in ("a print", "a write", "bytes", "the first stream", "the descriptor", "a child"):
        assert text in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_it_works_without_streams(closed: str, tmp_path: Path) -> None:
    """Without a standard output, descriptor 1 may be any file, which must not be touched."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from editkit.registry.guard import call_guarded\n"
        "file = open(sys.argv[1], 'w')\n"
        "call_guarded(lambda: (file.write('kept'), file.flush(), print('lost')))\n"
        "file.close()\n",
        encoding="utf-8",
    )
    out = tmp_path / "out"
    command = f"exec '{sys.executable}' '{script}' '{out}' {closed}"
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    assert out.read_text(encoding="utf-8") == "kept"
