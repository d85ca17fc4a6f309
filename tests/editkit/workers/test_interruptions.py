"""Ctrl-C, SIGTERM and SIGKILL leave no process of a local cluster behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.editkit.workers import needs_ray

pytestmark = [needs_ray, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("number", "whole_group", "code"),
    [
        (signal.SIGINT, True, 130),  # Ctrl-C in a terminal
        (signal.SIGTERM, False, 143),
        (signal.SIGKILL, False, -9),
    ],
)
def test_no_process_is_left(number: signal.Signals, whole_group: bool, code: int) -> None:
    psutil = pytest.importorskip("psutil")
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.editkit.workers.interrupted"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert driver.stdout is not None
    try:
        assert driver.stdout.readline() == "working\n"
        processes = psutil.Process(driver.pid).children(recursive=True)
        assert sum("Worker" in process.name() for process in processes) == 2
    except BaseException:
        driver.kill()
        raise
    (os.killpg if whole_group else os.kill)(driver.pid, number)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == code
    assert (out, err) == ("", "")
    patience = 300 if number == signal.SIGKILL else 10  # Ray's agents notice after minutes
    _, alive = psutil.wait_procs(processes, timeout=patience)
    assert not alive
