"""Every hook. A plugin is a module that implements any of them with :data:`editkit.hookimpl`, and
that an entry point of the group ``editkit`` names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from editkit.models.architectures import Architecture
from editkit.registry.specs import (
    BenchmarkSpec,
    CommandSpec,
    DatasetSpec,
    EditorSpec,
    JudgeSpec,
    LocatorSpec,
    MetricSpec,
    ModelMetricSpec,
    ModelSpec,
    PublishedTableSpec,
)

if TYPE_CHECKING:
    from editkit.data_types import Report
    from editkit.results import Cell, Row, Run

hookimpl = pluggy.HookimplMarker("editkit")
hookspec = pluggy.HookspecMarker("editkit")


# ---------------------------------------------------------------- what a plugin offers


@hookspec
def editkit_editors() -> Iterable[EditorSpec]:
    """Editors."""
    return ()


@hookspec
def editkit_locators() -> Iterable[LocatorSpec]:
    """Locators."""
    return ()


@hookspec
def editkit_metrics() -> Iterable[MetricSpec]:
    """Metrics."""
    return ()


@hookspec
def editkit_model_metrics() -> Iterable[ModelMetricSpec]:
    """Metrics of edited models as a whole."""
    return ()


@hookspec
def editkit_judges() -> Iterable[JudgeSpec]:
    """Judges of what models write."""
    return ()


@hookspec
def editkit_datasets() -> Iterable[DatasetSpec]:
    """Datasets."""
    return ()


@hookspec
def editkit_models() -> Iterable[ModelSpec]:
    """Models that ship with the plugin."""
    return ()


@hookspec
def editkit_benchmarks() -> Iterable[BenchmarkSpec]:
    """Benchmark files that ship with the plugin."""
    return ()


@hookspec
def editkit_published_tables() -> Iterable[PublishedTableSpec]:
    """Published results that reports show next to ours, for the same model and protocols."""
    return ()


@hookspec
def editkit_commands() -> Iterable[CommandSpec]:
    """Commands ``editkit NAME``."""
    return ()


@hookspec
def editkit_architectures() -> Iterable[Architecture]:
    """Families of models, each with the model types of its configs."""
    return ()


# ---------------------------------------------------------------- what a plugin observes


@hookspec
def editkit_run_started(run: Run) -> None:
    """A benchmark run starts. Nothing is computed yet; the store may have rows of earlier runs."""


@hookspec
def editkit_record_finished(run: Run, cell: Cell, row: Row) -> None:
    """A row was committed to the store."""


@hookspec
def editkit_cell_finished(run: Run, cell: Cell) -> None:
    """All rows of a cell are in the store."""


@hookspec
def editkit_run_finished(run: Run) -> Mapping[str, Any] | None:
    """The run ended, with all its rows stored. The ``--json`` document includes what it returns."""


@hookspec
def editkit_reported(report: Report) -> Mapping[str, Any] | None:
    """Something other than a run (a training, a trace) has results to show, or new ones."""
