from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from editkit_plugins.mlflow_tracking.database import ensure_database, quiet


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh MLflow database, made once: its migrations take a second or two."""
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with quiet():
        ensure_database(database)
    return database


@pytest.fixture
def out(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder, with a space in its name, where MLflow's database is already made."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "my results"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    return folder
