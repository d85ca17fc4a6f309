from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from filelock import FileLock

from editkit import TrackingError
from editkit_plugins.mlflow_tracking import database as database_module
from editkit_plugins.mlflow_tracking.database import (
    database_file,
    ensure_database,
    printable_uri,
    quiet,
)
from editkit_plugins.mlflow_tracking.tracker import Tracker

CREATE = """
import sys
from pathlib import Path
from editkit_plugins.mlflow_tracking.database import ensure_database, quiet
with quiet():
    import mlflow.store.tracking.sqlalchemy_store
    print("ready", flush=True)
    ensure_database(Path(sys.argv[1]))
"""


def creator(database: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CREATE, str(database)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tables(database: Path) -> set[str]:
    connection = sqlite3.connect(database)
    try:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    finally:
        connection.close()
    return {name for (name,) in rows}


def test_processes_that_create_it_at_the_same_time_all_succeed(tmp_path: Path) -> None:
    database = tmp_path / "new" / "mlflow.db"
    children = [creator(database) for _ in range(2)]
    for child in children:
        _, chatter = child.communicate(timeout=120)
        assert child.returncode == 0, chatter
        assert chatter == ""
    assert {"experiments", "runs", "metrics", "alembic_version"} <= tables(database)
    assert sorted(p.name for p in database.parent.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


@pytest.mark.slow
def test_a_kill_leaves_nothing_broken(tmp_path: Path, empty_database: Path) -> None:
    database = tmp_path / "mlflow.db"
    unfinished = 0
    chance = random.Random(0)
    for _ in range(3):
        child = creator(database)
        if child.stdout is None or child.stdout.readline() != "ready\n":
            pytest.fail("the child did not start")
        time.sleep(chance.uniform(0.02, 0.4))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        if database.exists():
            assert tables(database) == tables(empty_database)
            database.unlink()
        else:
            unfinished += 1
    with quiet():
        ensure_database(database)
    assert tables(database) == tables(empty_database)
    assert unfinished


def test_leftovers_of_a_killed_process_are_not_used(tmp_path: Path, empty_database: Path) -> None:
    database = tmp_path / "mlflow.db"
    for suffix in ("", "-journal", "-wal"):
        (tmp_path / f".mlflow.db.unfinished{suffix}").write_bytes(b"half a migration")
    with quiet():
        ensure_database(database)
    assert tables(database) == tables(empty_database)
    assert not list(tmp_path.glob("*.unfinished*"))


def test_quiet_restores_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "INFO")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    before = dict(os.environ)
    level = logging.getLogger("alembic").level
    with quiet():
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
        warnings.warn("an old function", DeprecationWarning, stacklevel=1)
    assert dict(os.environ) == before
    assert logging.getLogger("alembic").level == level


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////data/my results/mlflow.db", Path("/data/my results/mlflow.db")),
        ("sqlite:////data/mlflow.db?timeout=5", Path("/data/mlflow.db")),
        ("sqlite:///:memory:", None),
        ("http://127.0.0.1:5000", None),
        ("postgresql://host/mlflow", None),
    ],
)
def test_which_uris_are_files(uri: str, file: Path | None) -> None:
    assert database_file(uri) == file


def test_passwords_are_not_printed() -> None:
    assert printable_uri("https://me:secret@mlflow.example/x") == "https://mlflow.example/x"
    assert printable_uri("http://me:SEC@RET@host") == "http://host"
    assert printable_uri("http://host/x?token=SECRET") == "http://host/x?token=***"
    assert printable_uri("sqlite:////data/a@b/mlflow.db") == "sqlite:////data/a@b/mlflow.db"


@pytest.mark.parametrize("held", [True, False], ids=["held", "impossible"])
def test_an_unavailable_lock_is_a_tracking_error_without_an_endless_wait(
    held: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_LOCK_SECONDS", 0.2)
    place = tmp_path / "mlflow.db"
    if held:
        other: contextlib.AbstractContextManager[object] = FileLock(tmp_path / ".mlflow.db.lock")
    else:
        (tmp_path / ".mlflow.db.lock").mkdir()
        other = contextlib.nullcontext()
    started = time.monotonic()
    with other, pytest.raises(TrackingError, match=r"failed: .*lock"):
        Tracker(f"sqlite:///{place}", experiment="editkit/x")
    assert time.monotonic() - started < 30
    assert not place.exists()
