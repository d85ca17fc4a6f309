"""MLflow's database: where it is, and how it is created safely.

MLflow's first migration is not atomic: if it is killed, it leaves a database that no version opens,
and two processes that create the same file collide. So a new database is created under a lock and
another name, and moved into place when it is complete.
"""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock

from editkit.redaction import MASK, redacted

_URI_VARIABLE = "MLFLOW_TRACKING_URI"
_SQLITE = "sqlite:///"
_DATABASE = "mlflow.db"
_LOCK_SECONDS = 60.0  # our own processes hold the lock for some seconds at most
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""By default MLflow retries for minutes while a server is down. Values set by the user win."""
_NOISY_LOGGERS = ("mlflow", "alembic", "sqlalchemy.engine")


def tracking_uri(out: Path) -> str:
    """``MLFLOW_TRACKING_URI`` if it is set, otherwise a database in the output folder ``out``."""
    return os.environ.get(_URI_VARIABLE) or f"{_SQLITE}{out.resolve() / _DATABASE}"


def printable_uri(uri: str) -> str:
    """The URI without user names, passwords and tokens."""
    return redacted(uri).replace(f"//{MASK}@", "//")


def database_file(uri: str) -> Path | None:
    """The file of a SQLite tracking URI; None for other URIs."""
    if not uri.startswith(_SQLITE):
        return None
    name = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(name).absolute() if name and name != ":memory:" else None


def artifact_folder(database: Path) -> Path:
    """The folder of artifacts of a local database, next to it."""
    return database.parent / "mlartifacts"


def lock(database: Path) -> FileLock:
    """A lock for creating the database or a run in it; the end of the process releases it.

    Raises:
        OSError: The lock file cannot be created, or (on entering) another process holds the lock
            for too long.
    """
    path = database.with_name(f".{database.name}.lock")
    # Fail at once if the file cannot be created: FileLock would retry until its timeout.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))
    return FileLock(path, timeout=_LOCK_SECONDS)


def ensure_database(database: Path) -> None:
    """Create a missing database; safe if this process is killed or others do the same."""
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with lock(database):
        if database.exists():
            return
        _remove_unfinished(database)
        # Every attempt uses a new name: MLflow caches connections by name, and would reuse those
        # of a failed attempt (a full disk) although its file is gone.
        unfinished = database.with_name(f".{database.name}.unfinished-{uuid.uuid4().hex}")
        try:
            _create(unfinished, artifact_folder(database))
        except BaseException:
            with contextlib.suppress(OSError):
                _remove_unfinished(database)
            raise
        unfinished.replace(database)


def _remove_unfinished(database: Path) -> None:
    """Remove the files of earlier attempts, including SQLite's journals."""
    for leftover in database.parent.glob(f".{database.name}.unfinished*"):
        leftover.unlink()


def _create(file: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"{_SQLITE}{file}", artifacts.as_uri())
    store.engine.dispose()  # the file is about to move, so no connection may stay open


def child_environment() -> dict[str, str]:
    """Environment of the MLflow server that we start: no telemetry, background jobs or logs."""
    return {**os.environ, **_SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence MLflow: no telemetry, no progress logs, no warnings."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    retries = {name: value for name, value in _RETRIES.items() if name not in os.environ}
    with warnings.catch_warnings(), _environment({**retries, **_SETTINGS}):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, and restore them on exit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
