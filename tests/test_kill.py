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

from editkit.storage.cache import read_safetensors

_TRAINING = """
import sys
from pathlib import Path
from editkit_benchmarks.atlas.train import TrainingConfig, train
config = TrainingConfig(steps=120, layers=2, hidden=16, heads=2, rows=4, row_tokens=32)
train(Path(sys.argv[1]), Path(sys.argv[2]), config, checkpoint_every=5, quiet=True)
"""
ATLAS = ("--model", "atlas")
QUIET = ("--no-mlflow", "--quiet")
RUN = [
    *("run-benchmark", "--json", "--quiet"),
    *("--editor", "ft", "--editor", "ft+l", "--editor", "rome"),
    *("--limit", "16", "--set", "batch=4"),
]
TRACE = ["trace", *ATLAS, "--facts", "atlas", "--limit", "8", "--set", "window=2", *QUIET]
EXPERIMENT = ["run-experiment", "average-causal-effects", "--limit", "6", *QUIET]
TRAIN = [
    *("train", "mend", *ATLAS, "--dataset", "atlas", "--set", "dataset.split=train", *QUIET),
    *("--set", "steps=20", "--set", "validate_every=4", "--limit", "20"),
]
STATISTICS = [
    *("statistics", "atlas", "--layer", "0", "--corpus", "editkit_benchmarks.atlas:corpus_texts"),
    *("--tokens", "40000", "--ridge", "1e-3", "--quiet"),
]


def execute(
    arguments: list[str], cache: Path, kill_after: float | None = None
) -> tuple[bytes, bytes] | None:
    """Run a command to its end; its output, or None if it was killed before."""
    environment = {**os.environ, "EDITKIT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "editkit", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=cache.parent,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    assert process.returncode == 0, stderr.decode()
    return stdout, stderr


def run(out: Path, cache: Path, kill_after: float | None = None) -> dict[str, Any] | None:
    """Run the benchmark; the document, or None if it was killed before its end."""
    done = execute([*RUN, "--out", str(out)], cache, kill_after)
    if done is None:
        return None
    document: dict[str, Any] = json.loads(done[0])
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


# ---------------------------------------------------------------- files, byte for byte


def pictures_and_tables(folder: Path) -> dict[str, bytes]:
    """Files of averages by name: what they show, to the last bit."""
    kinds = (".csv", ".png", ".svg", ".pdf")
    files = [path for path in folder.rglob("*.*") if path.suffix in kinds]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def tensors(folder: Path) -> dict[str, bytes]:
    """Tensors of all finished files, as bytes; checkpoints tell how long work took, too."""
    states = {}
    for path in folder.rglob("*.safetensors"):
        if path.name.startswith((".", "checkpoint")):
            continue
        for name, tensor in read_safetensors(path)[1].items():
            states[f"{path.relative_to(folder)}:{name}"] = tensor.contiguous().numpy().tobytes()
    return states


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        pytest.param(TRACE, pictures_and_tables, id="trace"),
        pytest.param(EXPERIMENT, pictures_and_tables, id="run-experiment"),
        pytest.param(TRAIN, tensors, id="train"),
        pytest.param(STATISTICS, tensors, id="statistics"),
    ],
)
def test_kills_leave_every_bit_as_it_is(arguments: list[str], result: Any, tmp_path: Path) -> None:
    rng = random.Random(0)

    def where(name: str) -> tuple[list[str], Path, Path]:
        """The command with its output folder, the folder with what it makes, and its cache."""
        folder = tmp_path / name
        if arguments is STATISTICS:
            return [*arguments, "--out", str(tmp_path / f"report-{name}")], folder, folder
        return [*arguments, "--out", str(folder)], folder, tmp_path / f"cache-{name}"

    command, folder, cache = where("whole")
    start = time.monotonic()
    assert execute(command, cache) is not None
    seconds = time.monotonic() - start
    whole = result(folder)
    assert whole
    command, folder, cache = where("killed")
    killed = 0
    for _ in range(3):
        killed += execute(command, cache, kill_after=rng.uniform(0.5, 0.9) * seconds) is None
        if killed == 2:
            break
    assert execute(command, cache) is not None
    assert killed >= 1
    assert result(folder) == whole


@pytest.mark.slow
def test_kills_leave_the_embedded_model_as_it_is(tmp_path: Path) -> None:
    from editkit_benchmarks.atlas.tokenizer import save_tokenizer

    save_tokenizer(tmp_path / "tokenizer")

    def start(name: str) -> subprocess.Popen[bytes]:
        arguments = [str(tmp_path / name), str(tmp_path / "tokenizer")]
        return subprocess.Popen(
            [sys.executable, "-c", _TRAINING, *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def content(name: str) -> dict[str, bytes]:
        files = [path for path in (tmp_path / name).iterdir() if not path.name.startswith(".")]
        return {path.name: path.read_bytes() for path in files}

    assert start("whole").wait() == 0
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
    rng = random.Random(0)
    seen = b""
    for _ in range(3):
        process = start("killed")
        while process.poll() is None:  # killed some steps after it has come further
            if checkpoint.exists() and (now := checkpoint.read_bytes()) != seen:
                time.sleep(rng.uniform(0, 0.2))
                seen = now
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        assert process.wait() == -signal.SIGKILL
    assert start("killed").wait() == 0
    assert content("killed") == content("whole")
