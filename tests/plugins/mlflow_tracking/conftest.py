from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from editkit_plugins.mlflow_tracking.database import ensure_database, quiet


@pytest.fixture(scope="session")
def empty_database(built_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A new MLflow database, created once: its migrations take a second or two."""

    def build(folder: Path) -> None:
        with quiet():
            ensure_database(folder / "mlflow.db")

    return built_once("mlflow", build) / "mlflow.db"


@pytest.fixture
def out(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder with a space in its name and an empty MLflow database."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "my results"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    return folder
