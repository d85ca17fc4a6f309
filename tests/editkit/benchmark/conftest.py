from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from editkit.registry.plugins import default_registry
from tests.editkit.benchmark import fakes


@pytest.fixture
def fake_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Only the fake plugin is installed, and models are fake; gives the folder of distributions."""
    site = tmp_path / "site"
    fakes.write_distribution(site, "fake-plugin", {"fake": fakes.HERE})
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("EDITKIT_DISABLE_PLUGINS", "editkit")
    for name, module in fakes.fake_modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    fakes.loaded.clear()
    default_registry.cache_clear()
    yield site
    default_registry.cache_clear()


@pytest.fixture
def editkit(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the command line: ``editkit("plugins")`` gives exit code, stdout and stderr."""
    from editkit.cli.main import main

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test leaves a finished run for the others to copy."""
    return tmp_path_factory.mktemp("finished") / "out"


@pytest.fixture
def out(fake_world: Path, editkit: Callable[..., Any], tmp_path: Path, finished: Path) -> Path:
    """The folder of a finished run of two editors over 23 records."""
    if not finished.exists():
        code, _, err = editkit("run-benchmark", "small", "--out", finished, "--no-mlflow")
        assert code == 0, err
    return Path(shutil.copytree(finished, tmp_path / "out"))
