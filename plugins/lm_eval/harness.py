"""The harness at work: silent, local, and leaving the process as it found it."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

from editkit import ConfigError, PluginError
from editkit.registry.random_state import preserved_random_state

__all__ = ["harness", "installed_version"]

_EXPECTED = (
    "`pretrained` model kwarg is not of type `str`",
    "Passed an already-initialized model",
    "Custom kwargs can be passed to `--metadata`",
)
"""Warnings about how the harness is used here."""
_NUMBER = re.compile(r"\d+")
_log = logging.getLogger(__name__)


def installed_version() -> str:
    """The version of the harness.

    Raises:
        PluginError: It is not installed.
    """
    try:
        with _environment():  # importing it sets variables
            version: str = importlib.import_module("lm_eval").__version__
    except ImportError:
        raise PluginError(
            "the metric 'lm-eval' needs lm-evaluation-harness, which is not installed.",
            hint="Run: pip install 'editkit[lm-eval]'",
        ) from None
    return version


@contextlib.contextmanager
def harness(reported: set[str] | None = None) -> Iterator[None]:
    """Inside, the harness can be called.

    It shows no progress and prints nothing. Its warnings are logged at the end, those of one kind
    once. It loads no metric from the hub, which would be code, and does not report downloads.
    Environment variables and random generators are restored at the end.

    Args:
        reported: Warnings that were logged before, without their numbers; they are not repeated.

    Raises:
        ConfigError: A task asked for a metric from the hub.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(preserved_random_state())
        stack.enter_context(_environment())
        os.environ["DISABLE_MULTIPROC"] = "1"  # or each bootstrap forks a process for every core
        stack.enter_context(_collected_warnings(set() if reported is None else reported))
        import datasets
        import tqdm

        for library in ("transformers", "datasets", "huggingface_hub"):
            importlib.import_module(library)  # each sets the level of its logger
            stack.enter_context(_only_errors(library))
        stack.enter_context(_replaced(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False))
        stack.enter_context(_replaced(tqdm.tqdm, "__init__", _silent(tqdm.tqdm.__init__)))
        stack.enter_context(_without_hub_metrics())
        printed = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield
    if printed.getvalue():
        _log.debug("lm-eval printed: %s", printed.getvalue())


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _silent(initialise: Any) -> Any:
    """The ``__init__`` of a progress bar that is never shown."""

    def run(self: Any, *arguments: Any, **options: Any) -> None:
        initialise(self, *arguments, **{**options, "disable": True})

    return run


@contextlib.contextmanager
def _without_hub_metrics() -> Iterator[None]:
    """Inside, ``evaluate.load``, which runs code from the hub, fails.

    The harness catches errors of that function, so what was asked for is reported at the end.
    """
    wanted: list[str] = []

    def load(path: object, *arguments: object, **options: object) -> None:
        wanted.append(str(path))
        raise RuntimeError(f"no metrics from the hub: {path}")

    known = sys.modules.get("evaluate")
    if known is None:
        stub = types.ModuleType("evaluate")  # importing the library takes seconds
        vars(stub)["load"] = load
        sys.modules["evaluate"] = stub
    try:
        with contextlib.nullcontext() if known is None else _replaced(known, "load", load):
            yield
    except Exception:
        if not wanted:
            raise
    finally:
        if known is None:
            sys.modules.pop("evaluate", None)
    if wanted:
        raise ConfigError(
            f"lm-eval: a task has the metric {wanted[0]!r}, which is code on the hub.",
            hint="Choose tasks with metrics of lm-evaluation-harness, or define the metric in a "
            "Python file next to the task's YAML file (!function).",
        )


# ---------------------------------------------------------------- what the harness logs


class _Collecting(logging.Handler):
    """Keeps the first warning of each kind, and how many there were."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first: dict[str, str] = {}
        self.counts: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        kind = _NUMBER.sub("#", message)
        self.first.setdefault(kind, " ".join(message.split()))
        self.counts[kind] = self.counts.get(kind, 0) + 1


@contextlib.contextmanager
def _collected_warnings(reported: set[str]) -> Iterator[None]:
    logger, handler = logging.getLogger("lm_eval"), _Collecting()
    before = logger.propagate, logger.handlers, logger.level, logger.disabled
    logger.propagate, logger.handlers, logger.disabled = False, [handler], False
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.propagate, logger.handlers, level, logger.disabled = before
        logger.setLevel(level)
    for kind, message in handler.first.items():
        if kind not in reported and not any(known in message for known in _EXPECTED):
            count = handler.counts[kind]
            times = f" ({count} times)" if count > 1 else ""
            _log.warning("lm-eval: %s%s", message, times)
    reported.update(handler.first)


@contextlib.contextmanager
def _only_errors(library: str) -> Iterator[None]:
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
