"""MLflow: finished cells and reports become MLflow runs, to be compared in its web interface.

MLflow holds a copy of the result store. Nothing is read back from it, and
``editkit export-mlflow`` writes the copy again. The schema is documented in ``docs/mlflow.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from editkit import CommandSpec, hookimpl

if TYPE_CHECKING:
    from editkit.data_types import Report
    from editkit.results import Run


@hookimpl
def editkit_run_started(run: Run) -> None:
    """Note when the run started."""
    if run.tracking:
        from editkit_plugins.mlflow_tracking import cells

        cells.run_started(run)


@hookimpl
def editkit_cell_finished(run: Run) -> None:
    """Log finished cells to MLflow, at most once a minute."""
    if run.tracking:
        from editkit_plugins.mlflow_tracking import cells

        cells.cell_finished(run)


@hookimpl
def editkit_run_finished(run: Run) -> Mapping[str, Any] | None:
    """Log remaining cells, and add the ids of the MLflow runs to the ``--json`` document."""
    if not run.tracking:
        return None
    from editkit_plugins.mlflow_tracking import cells

    return cells.run_finished(run)


@hookimpl
def editkit_reported(report: Report) -> Mapping[str, Any]:
    """Log a report, such as a training or a trace."""
    from editkit_plugins.mlflow_tracking.reports import log_report

    return log_report(report)


@hookimpl
def editkit_commands() -> list[CommandSpec]:
    """Add ``editkit export-mlflow`` and ``editkit ui``."""
    package = "editkit_plugins.mlflow_tracking"
    return [
        CommandSpec(
            name="export-mlflow",
            module=f"{package}.export",
            summary="write the results of a store to MLflow again",
        ),
        CommandSpec(
            name="ui",
            module=f"{package}.ui",
            summary="open the results in MLflow's web interface",
        ),
    ]
