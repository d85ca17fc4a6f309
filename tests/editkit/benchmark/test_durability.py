"""Runs that are killed, interrupted and crowded, in processes of their own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from editkit.benchmark.store import rows_of, runs_in
from tests.editkit.benchmark import fakes
from tests.slow_cases import by_default

SLOW = ("--set", "editors.one.sleep=0.004", "--set", "editors.two.sleep=0.004")


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Any]:
    """Starts ``editkit run-benchmark small`` in the fake world."""
    site = tmp_path / "site"
    fakes.write_distribution(site, "fake-plugin", {"fake": fakes.HERE})
    environment = {
        **os.environ,
        "PYTHONPATH": f"{fakes.ROOT}{os.pathsep}{site}",
        "EDITKIT_DISABLE_PLUGINS": "editkit",
    }

    started: list[subprocess.Popen[str]] = []

    def start(out: Path, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.editkit.benchmark.fake_cli", "run-benchmark", "small",
             "--out", str(out), "--json", *SLOW, *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def results(text: str) -> list[Any]:
    return [
        {key: cell[key] for key in ("editor", "fingerprint", "records", "metrics")}
        for cell in json.loads(text)["cells"]
    ]


def wait_for_rows(out: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "results.sqlite").exists():
            runs = runs_in(out)
            if runs and rows_of(runs[0], runs[0].cells[0]):
                return
        time.sleep(0.01)
    raise TimeoutError("no rows appeared")


def test_killed_at_random_moments_it_ends_with_the_same_numbers(
    command: Any, tmp_path: Path
) -> None:
    _, undisturbed, _ = finish(command(tmp_path / "undisturbed"))
    out = tmp_path / "killed"
    moments = random.Random(4)
    for _ in range(6):
        process = command(out)
        time.sleep(moments.uniform(0.2, 0.55))
        process.kill()
        finish(process)
    code, text, err = finish(command(out))
    assert code == 0, err
    assert results(text) == results(undisturbed)
    assert finish(command(out))[1] == text


@pytest.mark.parametrize(
    ("number", "code"),
    by_default([(signal.SIGINT, 130), (signal.SIGTERM, 143)], (signal.SIGINT, 130)),
)
def test_interrupted_it_keeps_rows_and_says_how_to_go_on(
    command: Any, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = command(tmp_path / "out", "--set", "editors.two.sleep=0.2")
    wait_for_rows(tmp_path / "out", process)
    process.send_signal(number)
    returned, out, err = finish(process)
    assert (returned, out) == (code, "")
    assert "The same command resumes." in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_two_processes_do_not_work_on_one_folder(command: Any, tmp_path: Path) -> None:
    first = command(tmp_path / "out", "--set", "editors.two.sleep=2")
    wait_for_rows(tmp_path / "out", first)
    code, _, err = finish(command(tmp_path / "out"))
    assert code == 4
    assert f"process {first.pid} is running" in err


@pytest.mark.slow
def test_shards_work_on_one_folder_at_the_same_time(command: Any, tmp_path: Path) -> None:
    _, undisturbed, _ = finish(command(tmp_path / "undisturbed"))
    processes = [command(tmp_path / "out", "--shard", f"{i}/2") for i in (1, 2)]
    assert [finish(process)[0] for process in processes] == [0, 0]
    assert results(finish(command(tmp_path / "out"))[1]) == results(undisturbed)
