"""Calling the observer hooks of plugins. Observers watch a run but cannot change it.

Hooks run guarded (:mod:`editkit.registry.guard`), one plugin at a time. Each plugin receives its
own copies of the data, and its answer is checked before it enters the ``--json`` document.
"""

from __future__ import annotations

import contextvars
import copy
import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from editkit.benchmark.aggregate import DOCUMENT_KEYS
from editkit.data_types import Report
from editkit.errors import TrackingError, first_line
from editkit.redaction import redacted, redacted_values
from editkit.registry.guard import PluginFailure, call_guarded
from editkit.registry.plugins import Plugin, Registry, default_registry
from editkit.results import Cell, Row, Run

__all__ = ["FAILED", "Observers", "publish"]

_log = logging.getLogger(__name__)

FAILED = "failed"
"""Key in the result of :func:`publish` for the message of a tracking service that failed."""

_inside: contextvars.ContextVar[frozenset[str]] = contextvars.ContextVar(
    "_inside", default=frozenset()
)
"""Plugins with a hook on the call stack."""


class Observers:
    """The observer hooks of all plugins.

    Attributes:
        tracking_errors: Errors of tracking services so far.
    """

    def __init__(self, registry: Registry) -> None:
        self.tracking_errors: list[TrackingError] = []
        self._plugins = list(registry.plugins)
        self._implementing: dict[str, list[Plugin]] = {}
        self._muted: set[tuple[str, str]] = set()
        self._runs: dict[str, tuple[Run, Run]] = {}

    def run_started(self, run: Run) -> None:
        """Call when a run starts."""
        self._call("editkit_run_started", lambda plugin: {"run": self._run(plugin, run)})

    def record_finished(self, run: Run, cell: Cell, row: Row) -> None:
        """Call when a row is stored."""
        self._call(
            "editkit_record_finished",
            lambda plugin: {
                "run": self._run(plugin, run),
                "cell": self._cell(plugin, run, cell),
                "row": copied(row),
            },
        )

    def cell_finished(self, run: Run, cell: Cell) -> None:
        """Call when a cell has all its rows."""
        self._call(
            "editkit_cell_finished",
            lambda plugin: {
                "run": self._run(plugin, run),
                "cell": self._cell(plugin, run, cell),
            },
        )

    def run_finished(self, run: Run) -> dict[str, Any]:
        """Call when a run ends; returns the observers' entries for the ``--json`` document."""
        return self._call(
            "editkit_run_finished",
            lambda plugin: {"run": self._run(plugin, run)},
            reserved=DOCUMENT_KEYS,
        )

    def reported(self, report: Report) -> dict[str, Any]:
        """Call for a report from outside a run; returns the observers' answers."""
        return self._call(
            "editkit_reported", lambda plugin: {"report": copied(report)}, reserved={FAILED}
        )

    # ------------------------------------------------------------ arguments of hooks

    def _run(self, plugin: Plugin, run: Run) -> Run:
        """The plugin's own copy of a run, which it cannot use to change ours."""
        name = plugin.source.plugin
        kept = self._runs.get(name)
        if kept is None or kept[0] is not run:
            kept = self._runs[name] = run, copied(run)
        return kept[1]

    def _cell(self, plugin: Plugin, run: Run, cell: Cell) -> Cell:
        """The cell within the plugin's own copy of the run."""
        own = self._run(plugin, run).cells
        places = [place for place, each in enumerate(run.cells) if each is cell]
        same = [own[place] for place in places if place < len(own)]
        return same[0] if same and isinstance(same[0], Cell) else copied(cell)

    # ------------------------------------------------------------ calls and answers

    def _call(
        self,
        hook: str,
        arguments: Callable[[Plugin], dict[str, Any]],
        reserved: set[str] | frozenset[str] = frozenset(),
    ) -> dict[str, Any]:
        """Call a hook of every plugin that implements it, and merge their answers.

        Args:
            hook: Name of the hook.
            arguments: Builds the arguments for a plugin.
            reserved: Keys that answers must not have.
        """
        joined: dict[str, Any] = {}
        owners = dict.fromkeys(reserved, "editkit")
        if hook not in self._implementing:  # looked up once: a hook may be called for every row
            self._implementing[hook] = [
                plugin
                for plugin in self._plugins
                if getattr(plugin.manager.hook, hook).get_hookimpls()
            ]
        for plugin in self._implementing[hook]:
            name = plugin.source.plugin
            if (name, hook) in self._muted or name in _inside.get():
                continue
            for key, value in self._answer(plugin, hook, arguments(plugin)).items():
                if key in owners:
                    _log.warning(
                        "ignored the key %r of plugin %r (%s) in %s: it belongs to %s.",
                        *(key, name, plugin.source, hook, owners[key]),
                    )
                else:
                    joined[key], owners[key] = value, f"plugin {name!r}"
        return joined

    def _answer(self, plugin: Plugin, hook: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The answer of one plugin, as plain data."""

        def work() -> dict[str, Any]:
            answers = getattr(plugin.manager.hook, hook)(**arguments)
            return _plain(answers)

        inside = _inside.set(_inside.get() | {plugin.source.plugin})
        try:
            return call_guarded(work)
        except PluginFailure as failure:
            _log.debug("%s of %r failed", hook, plugin.source.plugin, exc_info=failure.error)
            if isinstance(failure.error, TrackingError):
                self.tracking_errors.append(_rebuilt(failure.error))
            else:
                _log.warning(
                    "plugin %r (%s) failed in %s, which is not called again: %s",
                    *(plugin.source.plugin, plugin.source, hook, _one_line(failure.error)),
                )
        finally:
            _inside.reset(inside)
        self._muted.add((plugin.source.plugin, hook))
        return {}


class _BadAnswer(Exception):
    """An answer cannot be part of a JSON document."""


def _plain(answers: Any) -> dict[str, Any]:
    """The answers of a plugin as one mapping of plain data, without secrets.

    Raises:
        _BadAnswer: An answer is not a mapping, or contains values that JSON cannot represent.
    """
    joined: dict[str, Any] = {}
    for answer in answers:
        if answer is None:
            continue
        if not isinstance(answer, Mapping):
            raise _BadAnswer(f"it returned {answer!r:.60}, expected a mapping or None")
        if not all(isinstance(key, str) for key in answer):
            raise _BadAnswer("it returned a mapping with keys that are not strings")
        try:
            plain = json.loads(json.dumps(dict(answer), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise _BadAnswer(f"its answer cannot be written as JSON: {error}") from error
        joined.update(redacted_values(plain))
    return joined


def _rebuilt(error: TrackingError) -> TrackingError:
    """The same error in our own class: a plugin's subclass may misbehave."""
    message, hint = (getattr(error, name, None) for name in ("message", "hint"))
    return TrackingError(
        message if isinstance(message, str) and message else _one_line(error),
        hint=hint if isinstance(hint, str) else None,
    )


def _one_line(error: BaseException) -> str:
    """An error of a plugin in one line; its own ``__str__`` may fail."""
    if isinstance(error, _BadAnswer):
        return redacted(f"answer refused: {first_line(error)[:500]}")
    try:
        return redacted(call_guarded(lambda: first_line(error, named=True))[:500])
    except PluginFailure:
        return type(error).__name__


def copied(value: Any) -> Any:
    """A copy that shares nothing mutable with the original."""
    try:
        return copy.deepcopy(value)
    except Exception:  # it contains an object that cannot be copied: a lock, a mapping proxy
        return _structure_copied(value)


def _structure_copied(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value)]
        twin = copy.copy(value)
        for name in fields:
            object.__setattr__(twin, name, copied(getattr(value, name)))
        return twin
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(copied(item) for item in value)
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value


def publish(report: Report) -> dict[str, Any]:
    """Send a report to every observer, such as MLflow. Errors are logged, never raised.

    Returns:
        The observers' answers, such as ``{"mlflow": {...}}``. If a tracking service fails, the
        error message is added under :data:`FAILED`.
    """
    observers = Observers(default_registry())
    answer = observers.reported(report)
    for error in observers.tracking_errors:
        _log.error("%s\n  see: %s", error, error.reference)
        answer[FAILED] = error.message
    return answer
