"""MLflow: finished cells and reports become MLflow runs, to be compared in its UI.

MLflow holds a projection of the result store and is never asked for anything: whatever it loses,
``editkit export-mlflow`` writes again. The schema is documented in ``docs/mlflow.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from editkit import CommandSpec, hookimpl

if TYPE_CHECKING:
    from editkit.data_types import Report
    from editkit.results import Cell, Run


@hookimpl
def editkit_cell_finished(run: Run, cell: Cell) -> None:
    """Show the cell in MLflow."""
    if run.tracking:
        from editkit_plugins.mlflow_tracking import observer

        observer.cell_finished(run, cell)


@hookimpl
def editkit_run_finished(run: Run) -> Mapping[str, Any] | None:
    """Say where the runs are to be seen."""
    if not run.tracking:
        return None
    from editkit_plugins.mlflow_tracking import observer

    return observer.run_finished(run)


@hookimpl
def editkit_reported(report: Report) -> Mapping[str, Any]:
    """Show a training, a trace, or whatever else is reported."""
    from editkit_plugins.mlflow_tracking.reported import reported

    return reported(report)


@hookimpl
def editkit_commands() -> list[CommandSpec]:
    """Offer ``editkit export-mlflow`` and ``editkit ui``."""
    package = "editkit_plugins.mlflow_tracking"
    return [
        CommandSpec(
            name="export-mlflow",
            module=f"{package}.export",
            summary="write a store's results to MLflow again",
        ),
        CommandSpec(
            name="ui",
            module=f"{package}.ui",
            summary="open the results in MLflow's web interface",
        ),
    ]
