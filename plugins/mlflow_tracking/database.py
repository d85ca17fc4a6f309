"""Where MLflow keeps its data, and how its database comes into being without being broken.

MLflow's first migration is not atomic: killed half way it leaves a database that no version opens,
and two processes that create one file collide. So a new database is made under a lock, at another
name, and moved into place when it is complete.
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
_LOCK_SECONDS = 60.0  # creating a database takes some; a lock that lasts is not one of ours
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""With a service that is down: seconds, not MLflow's minutes. The user's own values win."""
_TALKATIVE = ("mlflow", "alembic", "sqlalchemy.engine")


def tracking_uri(out: Path) -> str:
    """``MLFLOW_TRACKING_URI`` if it is set, else a database in the output folder ``out``."""
    return os.environ.get(_URI_VARIABLE) or f"{_SQLITE}{out.resolve() / _DATABASE}"


def shown(uri: str) -> str:
    """The URI without names, passwords and tokens, to be printed."""
    return redacted(uri).replace(f"//{MASK}@", "//")


def database_file(uri: str) -> Path | None:
    """The file of a SQLite tracking URI; None for every other place."""
    if not uri.startswith(_SQLITE):
        return None
    name = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(name).absolute() if name and name != ":memory:" else None


def artifact_folder(database: Path) -> Path:
    """Where the artifacts of a local database lie: beside it."""
    return database.parent / "mlartifacts"


def lock(database: Path) -> FileLock:
    """What a process holds while it creates the database or a run in it; freed by its death.

    Raises:
        OSError: There cannot be a file beside the database, or (on entering) another process
            holds the lock for longer than any of ours does.
    """
    path = database.with_name(f".{database.name}.lock")
    # Where no file can be made, say so now: the lock would try again until its time is over.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))
    return FileLock(path, timeout=_LOCK_SECONDS)


def ensure_database(database: Path) -> None:
    """Create the database if there is none; safe against kills and against other processes."""
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with lock(database):
        if database.exists():
            return
        _remove_unfinished(database)
        # A name of its own for every attempt: MLflow keeps connections by name, and would go on
        # with those of one that failed (a full disk), though its file is gone.
        unfinished = database.with_name(f".{database.name}.unfinished-{uuid.uuid4().hex}")
        try:
            _create(unfinished, artifact_folder(database))
        except BaseException:
            with contextlib.suppress(OSError):
                _remove_unfinished(database)
            raise
        unfinished.replace(database)


def _remove_unfinished(database: Path) -> None:
    """Remove what earlier attempts left, with SQLite's journals."""
    for leftover in database.parent.glob(f".{database.name}.unfinished*"):
        leftover.unlink()


def _create(file: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"{_SQLITE}{file}", artifacts.as_uri())
    store.engine.dispose()  # the file moves; no connection may stay open to its first name


def child_environment() -> dict[str, str]:
    """Environment for an MLflow process of our own: no telemetry, no jobs, no chatter."""
    return {**os.environ, **_SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, MLflow sends no telemetry, logs no progress, and its deprecations stay its own."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    patience = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
    with warnings.catch_warnings(), _environment({**patience, **_SETTINGS}):
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
    """Set variables, and put each back as it was."""
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
