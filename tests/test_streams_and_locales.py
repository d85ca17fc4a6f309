"""Pipes, closed streams, locales and folders as shells, jobs and containers leave them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from editkit import StoreError

EDITKIT = [sys.executable, "-m", "editkit"]
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TRACE = [
    *("trace", "--model", "atlas", "--facts", "atlas", "--limit", "2", "--no-mlflow"),
    *("--set", "kinds=[state]", "--set", "samples=1", "--set", "window=2", "--quiet"),
]
posix = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")


def shell(
    script: str, folder: Path, without: tuple[str, ...] = (), **changes: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash, in which ``$E`` is the program."""
    environ = {**os.environ, "E": " ".join(EDITKIT), "EDITKIT_CACHE": str(folder / "cache")}
    environ.update(changes)
    for name in without:
        environ.pop(name, None)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        capture_output=True, check=False, cwd=folder, env=environ, timeout=900,
    )  # fmt: skip


@posix
@pytest.mark.parametrize(
    ("script", "lines"),
    [
        ("$E describe rome | head -1", 1),
        ("$E plugins --json | head -c 20", 3),
        ("$E atlas facts | head -1", 1),
        ("$E plugins >&-", 0),
        ("$E plugins <&- | tail -1", 1),
        ("$E plugins 2>&- | tail -1", 1),
        ("$E plugins <&- >&- 2>&-", 0),
        ("TERM=dumb $E plugins | tail -1", 1),
        ("TERM= COLUMNS=1 $E plugins | tail -1", 1),
    ],
)
def test_readers_that_leave_and_closed_streams(script: str, lines: int, tmp_path: Path) -> None:
    done = shell(script, tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == lines


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    done = shell("$E plugins > /dev/full", tmp_path)
    assert done.returncode == 2
    assert b"No space left on device" in done.stderr
    assert b"unexpected" not in done.stderr
    assert b"Traceback" not in done.stderr


@posix
def test_a_locale_without_unicode_is_written_escaped(tmp_path: Path) -> None:
    done = shell("$E describe rome", tmp_path, **PLAIN)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"|v0|\xb2" in done.stdout


@posix
@pytest.mark.slow
def test_averages_are_written_escaped(tmp_path: Path) -> None:
    done = shell(f"$E {' '.join(repr(word) for word in TRACE)}", tmp_path, **PLAIN)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb" \xb1 " in done.stdout


@posix
def test_files_are_utf_8_in_any_locale(tmp_path: Path) -> None:
    facts = [{"prompt": "Zoë is from 東京", "subject": "Zoë", "answer": "Toyota"}]
    text = json.dumps(facts, ensure_ascii=False)
    (tmp_path / "facts.json").write_text(text, encoding="utf-8")
    arguments = "trace --model atlas --facts facts.json --set kinds=[state] --set window=2"
    done = shell(f"$E {arguments} --no-mlflow", tmp_path, **PLAIN)
    assert done.returncode == 2
    assert b"predicts none of the 1 facts of facts.json" in done.stderr  # it was read


@posix
def test_without_a_home(tmp_path: Path) -> None:
    done = shell("$E plugins | tail -1", tmp_path, without=("HOME", "EDITKIT_CACHE"))
    assert (done.returncode, done.stderr) == (0, b"")


@posix
@pytest.mark.slow
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = shell(f"$E {' '.join(repr(word) for word in TRACE)} --out file/out", tmp_path)
    assert done.returncode in (2, 4)
    assert b"unexpected" not in done.stderr
    assert b"file/out" in done.stderr


# ---------------------------------------------------------------- Ctrl-C, twice


@posix
@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2, 5])
def test_ctrl_c_any_number_of_times_loses_nothing(times: int, tmp_path: Path) -> None:
    arguments = [
        *("run-benchmark", "--editor", "none", "--editor", "ft", "--limit", "100"),
        *("--set", "batch=2", "--no-mlflow", "--out", str(tmp_path / "out"), "--json"),
    ]
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code = start + "from editkit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 600  # a busy machine takes minutes to start
    while time.monotonic() < deadline and process.poll() is None and not rows(tmp_path / "out"):
        time.sleep(0.05)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    out, err = process.communicate(timeout=600)
    assert process.returncode in (130, -signal.SIGINT), err
    assert out == b""
    kept = rows(tmp_path / "out")
    assert kept
    assert len(kept) % 2 == 0  # whole batches
    assert all(row.status == "done" for row in kept)
    assert len(kept) < 200


def rows(out: Path) -> list[Any]:
    from editkit.benchmark.store import Store
    from editkit.results import STORE_FILE

    if not (out / STORE_FILE).exists():
        return []
    with contextlib.suppress(StoreError), Store(out / STORE_FILE, read_only=True) as store:
        return [row for fingerprint in store.cells() for row in store.rows(fingerprint)]
    return []
