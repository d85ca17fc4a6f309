from __future__ import annotations

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
