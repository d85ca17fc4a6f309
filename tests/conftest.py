"""Set-up for every test: no network, one thread, a cache of the run's own, a guard against leaks.

Tests run in parallel, each worker of pytest-xdist in a process and a temporary folder of its own.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
)
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("COLUMNS", None)  # the width of the terminal that runs the tests
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background job
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("editkit", deadline=None)
settings.load_profile("editkit")

_TEST_THREADS = 1
_SET_BY_LIBRARIES = ("PYTEST_CURRENT_TEST", "KMP_", "TORCHINDUCTOR_", "TRITON_")
"""How the names of variables begin that pytest, and torch once imported, write themselves."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run a single file in this process: workers would take longer to start."""
    files = {argument.partition("::")[0] for argument in config.args}
    single = len(files) == 1 and (config.invocation_params.dir / files.pop()).is_file()
    return 0 if single else None


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Temporary folder of the whole run, which all workers share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def built_once(run_folder: Path) -> Callable[[str, Callable[[Path], None]], Path]:
    """Builds a folder once for all workers: ``built_once("wheel", build)`` returns it."""

    def folder_of(name: str, build: Callable[[Path], None]) -> Path:
        folder, unfinished = run_folder / name, run_folder / f"{name}.unfinished"
        with FileLock(run_folder / f"{name}.lock"):
            if not folder.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                build(unfinished)
                unfinished.rename(folder)
        return folder

    return folder_of


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_run(run_folder: Path) -> Iterator[None]:
    """Start with an empty cache, shared by all workers; leave the user's alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDITKIT_CACHE", str(run_folder / "cache"))
        yield


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of the shared test data, which holds ``data/`` and ``parity/``."""
    folder = Path(os.environ.get("EDITKIT_TEST_DATA", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}: set EDITKIT_TEST_DATA to the folder that holds it")
    return folder


def _torch_state() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):
        return {}
    return {
        "torch's number of threads": torch.get_num_threads(),
        "torch's default type": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
    }


def _process_state() -> dict[str, Any]:
    return {
        "the working directory": Path.cwd(),
        "the root logger's level": logging.getLogger().level,
        **{f"${k}": v for k, v in os.environ.items() if not k.startswith(_SET_BY_LIBRARIES)},
    }


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves the process other than it found it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != _TEST_THREADS:
        torch.set_num_threads(_TEST_THREADS)
    process, tensors = _process_state(), _torch_state()
    yield
    after = _process_state()
    if tensors:  # torch that was first imported by this test has no earlier state
        process.update(tensors)
        after.update(_torch_state())
    changed = sorted(k for k in process.keys() | after.keys() if process.get(k) != after.get(k))
    if changed:
        changes = (f"{key}: {process.get(key)!r} -> {after.get(key)!r}" for key in changed)
        pytest.fail("this test changed " + "; ".join(changes), pytrace=False)


@pytest.fixture(scope="session")
def parity(test_data: Path) -> Any:
    """The published numbers of ``parity/``."""
    from tests.parity import Parity

    return Parity(test_data / "parity")
