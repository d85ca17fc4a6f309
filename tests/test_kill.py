"""The real program, killed for real: ``pytest -m slow tests/test_kill.py``."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

RUN = [
    *(sys.executable, "-m", "editkit", "run-benchmark", "--json", "--quiet"),
    *("--editor", "ft", "--editor", "ft+l", "--editor", "rome"),
    *("--limit", "16", "--set", "batch=4"),
]


def run(out: Path, cache: Path, kill_after: float | None = None) -> dict[str, Any] | None:
    """Run the benchmark; the document, or None if it was killed before its end."""
    environment = {**os.environ, "EDITKIT_CACHE": str(cache)}
    process = subprocess.Popen(
        [*RUN, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    assert process.returncode == 0, stderr.decode()
    document: dict[str, Any] = json.loads(stdout)
    return document


def table(document: dict[str, Any]) -> list[Any]:
    """What must not depend on interruptions: everything but times and memory."""
    return [
        {key: cell[key] for key in ("editor", "preset", "fingerprint", "records", "metrics")}
        for cell in document["cells"]
    ]


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_the_table_as_it_is(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(tmp_path / "warm", cache)  # contexts and statistics, so that kills hit the run itself
    start = time.monotonic()
    whole = run(tmp_path / "whole", cache)
    seconds = time.monotonic() - start
    assert whole is not None
    rng = random.Random(0)
    killed = 0
    while killed < 20:
        out = tmp_path / f"killed-{killed}"
        for _ in range(rng.randint(1, 3)):  # one to three kills, then to the end
            killed += run(out, cache, kill_after=rng.uniform(0.2, seconds)) is None
        resumed = run(out, cache)
        assert resumed is not None
        assert table(resumed) == table(whole)
