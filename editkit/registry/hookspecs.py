"""The whole extension surface. A plugin is a module, named by an entry point of the group
``editkit``, that implements any of these hooks with :data:`editkit.hookimpl`.

The hooks have a version, (major, minor). A new hook or argument raises the minor one; taking one
away, after it was deprecated, raises the major one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from editkit.registry.specs import (
    BenchmarkSpec,
    CommandSpec,
    DatasetSpec,
    EditorSpec,
    LocatorSpec,
    MetricSpec,
    ModelSpec,
    PublishedTableSpec,
)

if TYPE_CHECKING:
    from editkit.data_types import Report
    from editkit.results import Cell, Row, Run

HOOKS_VERSION = (1, 1)

hookimpl = pluggy.HookimplMarker("editkit")

_marker = pluggy.HookspecMarker("editkit")
_infos: dict[str, HookInfo] = {}
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Deprecation:
    """What to use instead of something, and the version of the hooks that no longer has it."""

    instead: str
    gone_in: tuple[int, int]

    def __str__(self) -> str:
        return f"use {self.instead} instead, goes away in {'.'.join(map(str, self.gone_in))}"


@dataclasses.dataclass(frozen=True)
class HookInfo:
    """The version of the hooks that brought a hook, and what of it will go away."""

    since: tuple[int, int]
    deprecated: Deprecation | None = None
    deprecated_arguments: Mapping[str, Deprecation] = dataclasses.field(default_factory=dict)


def hookspec(
    *,
    since: tuple[int, int],
    deprecated: Deprecation | None = None,
    deprecated_arguments: Mapping[str, Deprecation] | None = None,
) -> Callable[[_F], _F]:
    """Declare a hook."""

    def declare(function: _F) -> _F:
        info = HookInfo(since, deprecated, deprecated_arguments or {})
        _infos[function.__name__] = info
        return _marker(function)

    return declare


def hook_info(name: str) -> HookInfo | None:
    """What there is to know about a hook; None if there is none of this name."""
    return _infos.get(name)


@hookspec(since=(1, 0))
def editkit_editors() -> Iterable[EditorSpec]:
    """Editors that this plugin offers."""
    return ()


@hookspec(since=(1, 0))
def editkit_locators() -> Iterable[LocatorSpec]:
    """Locators that this plugin offers."""
    return ()


@hookspec(since=(1, 0))
def editkit_metrics() -> Iterable[MetricSpec]:
    """Metrics that this plugin offers."""
    return ()


@hookspec(since=(1, 0))
def editkit_datasets() -> Iterable[DatasetSpec]:
    """Datasets that this plugin offers."""
    return ()


@hookspec(since=(1, 0))
def editkit_models() -> Iterable[ModelSpec]:
    """Models that ship with this plugin's package."""
    return ()


@hookspec(since=(1, 0))
def editkit_benchmarks() -> Iterable[BenchmarkSpec]:
    """Benchmark files that ship with this plugin's package."""
    return ()


@hookspec(since=(1, 1))
def editkit_published_tables() -> Iterable[PublishedTableSpec]:
    """Published results that reports show beside our own, for the same model and protocols."""
    return ()


@hookspec(since=(1, 0))
def editkit_commands() -> Iterable[CommandSpec]:
    """Commands ``editkit NAME`` that this plugin adds."""
    return ()


@hookspec(since=(1, 0))
def editkit_run_started(run: Run) -> None:
    """A benchmark run begins; nothing is computed yet, earlier rows may be in the store."""


@hookspec(since=(1, 0))
def editkit_record_finished(run: Run, cell: Cell, row: Row) -> None:
    """A row was committed to the store."""


@hookspec(since=(1, 0))
def editkit_cell_finished(run: Run, cell: Cell) -> None:
    """All rows of a cell are in the store."""


@hookspec(since=(1, 0))
def editkit_run_finished(run: Run) -> Mapping[str, Any] | None:
    """The run ended with all its rows stored. A returned mapping joins the ``--json`` document."""


@hookspec(since=(1, 1))
def editkit_reported(report: Report) -> Mapping[str, Any] | None:
    """Something outside of a run (a training, a trace) is there to be shown, or has gone on."""
