"""The whole extension surface. A plugin is a module, named by an entry point of the group
``editkit``, that implements any of these hooks with :data:`editkit.hookimpl`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from editkit.interfaces import (
    BenchmarkSpec,
    CommandSpec,
    DatasetSpec,
    EditorSpec,
    LocatorSpec,
    MetricSpec,
    ModelSpec,
)

if TYPE_CHECKING:
    from editkit.benchmark.run import Cell, Row, Run

hookspec = pluggy.HookspecMarker("editkit")
hookimpl = pluggy.HookimplMarker("editkit")


@hookspec
def editkit_editors() -> Iterable[EditorSpec]:
    """Editors that this plugin offers."""
    return ()


@hookspec
def editkit_locators() -> Iterable[LocatorSpec]:
    """Locators that this plugin offers."""
    return ()


@hookspec
def editkit_metrics() -> Iterable[MetricSpec]:
    """Metrics that this plugin offers."""
    return ()


@hookspec
def editkit_datasets() -> Iterable[DatasetSpec]:
    """Datasets that this plugin offers."""
    return ()


@hookspec
def editkit_models() -> Iterable[ModelSpec]:
    """Models that ship with this plugin's package."""
    return ()


@hookspec
def editkit_benchmarks() -> Iterable[BenchmarkSpec]:
    """Benchmark files that ship with this plugin's package."""
    return ()


@hookspec
def editkit_commands() -> Iterable[CommandSpec]:
    """Commands ``editkit NAME`` that this plugin adds."""
    return ()


@hookspec
def editkit_run_started(run: Run) -> None:
    """A benchmark run begins; nothing is computed yet, earlier rows may be in the store."""


@hookspec
def editkit_record_finished(run: Run, cell: Cell, row: Row) -> None:
    """A row was committed to the store."""


@hookspec
def editkit_cell_finished(run: Run, cell: Cell) -> None:
    """All rows of a cell are in the store."""


@hookspec
def editkit_run_finished(run: Run) -> Mapping[str, Any] | None:
    """The run ended with all its rows stored. A returned mapping joins the ``--json`` document."""
