"""Reports (a training, a trace) and figures as MLflow runs, in one experiment per kind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from editkit import TrackingError
from editkit_plugins.mlflow_tracking import view
from editkit_plugins.mlflow_tracking.cells import environment, log_cells
from editkit_plugins.mlflow_tracking.content import (
    RunContent,
    finite_metrics,
    flat_params,
    milliseconds,
    mlflow_name,
)
from editkit_plugins.mlflow_tracking.database import tracking_uri
from editkit_plugins.mlflow_tracking.notes import reports_note
from editkit_plugins.mlflow_tracking.tracker import Tracker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from editkit.data_types import Point, Report
    from editkit.results import Run

_FIGURES = "editkit.figures"


def log_report(report: Report) -> dict[str, Any]:
    """Log a report, or update its MLflow run.

    Returns:
        Tracking URI, experiment id and run id under the key ``mlflow``.

    Raises:
        TrackingError: MLflow cannot be reached or refuses a request, or a file of the report is
            missing.
    """
    # MLflow shows curves well by itself. A report without numbers leaves the view as it is.
    needs_view = bool(report.metrics) and not report.curves
    tracker = Tracker(
        tracking_uri(report.out),
        experiment=f"editkit/{report.kind}",
        kind=report.kind,
        note=lambda number: reports_note(report.kind, number, curves=bool(report.curves)),
        tags={view.TAG: view.report_view(report.metrics, report.panels)} if needs_view else {},
    )
    return tracker.document([tracker.log(content_of(report), environment=environment())])


def content_of(report: Report) -> RunContent:
    """The MLflow run of a report.

    Raises:
        TrackingError: A file of the report cannot be read.
    """
    try:
        attachments = {name: path.read_bytes() for name, path in report.files.items()}
        panels = {mlflow_name(name): path.read_bytes() for name, path in report.panels.items()}
    except OSError as error:
        raise TrackingError(
            f"a file of {report.kind} {report.name!r} cannot be read: {error}.",
            hint="Run the command again to recreate the file.",
        ) from error
    tables = [{"path": name, "type": "table"} for name in report.files if name.endswith(".json")]
    tags = {
        **report.tags,
        "mlflow.source.name": f"editkit {report.kind}",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": report.note or f"**{report.name}**: {report.kind} of editkit.",
        "mlflow.loggedArtifacts": json.dumps(tables) if tables else "",
    }
    return RunContent(
        fingerprint=report.fingerprint,
        name=report.name,
        started=milliseconds(report.started),
        finished=None if report.finished is None else milliseconds(report.finished),
        params=flat_params(report.params),
        metrics=finite_metrics(report.metrics),
        tags={name: value for name, value in tags.items() if value},
        curves={mlflow_name(name): _finite_points(curve) for name, curve in report.curves.items()},
        attachments=attachments,
        panels=panels,
    )


def _finite_points(curve: Sequence[Point]) -> list[tuple[int, float, int]]:
    return [
        (point.step, value, milliseconds(point.time))
        for point in curve
        for value in finite_metrics({"": point.value}).values()
    ]


def log_figures(run: Run, name: str) -> list[str]:
    """Add the figures of a run's output folder to the MLflow runs of its editors.

    Args:
        run: The benchmark run that they are about.
        name: Name of the experiment; an MLflow run that an earlier version made for its figures
            alone is deleted.

    Returns:
        Ids of the MLflow runs.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses a request.
    """
    tracker, run_ids = log_cells(run, run.cells)
    tracker.delete_runs(_FIGURES, name)
    return run_ids
