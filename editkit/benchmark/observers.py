"""Telling observers what happens, one plugin at a time, so that none can hurt the run."""

from __future__ import annotations

import logging
from typing import Any

from editkit.benchmark.run import Cell, Row, Run
from editkit.errors import TrackingError
from editkit.plugins import Plugin, Registry
from editkit.reports import Report

_log = logging.getLogger(__name__)


class Observers:
    """The observer hooks of all plugins.

    Attributes:
        tracking_errors: What tracking services could not be told; the run's last word.
    """

    def __init__(self, registry: Registry) -> None:
        self.tracking_errors: list[TrackingError] = []
        self._plugins = list(registry.plugins)
        self._muted: set[tuple[str, str]] = set()

    def run_started(self, run: Run) -> None:
        """The run begins."""
        self._tell("editkit_run_started", run=run)

    def record_finished(self, run: Run, cell: Cell, row: Row) -> None:
        """A row is stored."""
        self._tell("editkit_record_finished", run=run, cell=cell, row=row)

    def cell_finished(self, run: Run, cell: Cell) -> None:
        """A cell has all its rows."""
        self._tell("editkit_cell_finished", run=run, cell=cell)

    def run_finished(self, run: Run) -> dict[str, Any]:
        """The run ended; what observers add to the ``--json`` document."""
        return _joined(self._tell("editkit_run_finished", run=run))

    def reported(self, report: Report) -> dict[str, Any]:
        """Something outside of a run is there to be shown; what observers answer."""
        return _joined(self._tell("editkit_reported", report=report))

    def _tell(self, hook: str, **arguments: Any) -> list[Any]:
        answers: list[Any] = []
        for plugin in self._plugins:
            if (plugin.source.plugin, hook) not in self._muted:
                answers += self._tell_one(plugin, hook, arguments)
        return answers

    def _tell_one(self, plugin: Plugin, hook: str, arguments: dict[str, Any]) -> list[Any]:
        try:
            return list(getattr(plugin.manager.hook, hook)(**arguments))
        except TrackingError as error:
            self.tracking_errors.append(error)
        except (Exception, SystemExit) as error:
            _log.warning(
                "plugin %r (%s) failed in %s and is not asked again: %s: %s",
                plugin.source.plugin,
                plugin.source,
                hook,
                type(error).__name__,
                error,
            )
        self._muted.add((plugin.source.plugin, hook))
        return []


def _joined(answers: list[Any]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for answer in answers:
        joined.update(answer)
    return joined
