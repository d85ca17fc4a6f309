"""Reports (a training, a trace) as MLflow runs, in one experiment for each kind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from editkit import TrackingError
from editkit_plugins.mlflow_tracking import view
from editkit_plugins.mlflow_tracking.database import shown, tracking_uri
from editkit_plugins.mlflow_tracking.observer import environment
from editkit_plugins.mlflow_tracking.page import Page, entity_name, finite, parameters
from editkit_plugins.mlflow_tracking.tracker import Tracker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from editkit.data_types import Point, Report


def reported(report: Report) -> dict[str, Any]:
    """Show a report, or bring what is shown up to date.

    Raises:
        TrackingError: MLflow cannot be reached or refuses, or a file of the report is missing.
    """
    # Curves look well as MLflow shows them; what has no numbers leaves the view to what has.
    own_view = bool(report.metrics) and not report.curves
    tracker = Tracker(
        tracking_uri(report.out),
        experiment=f"editkit/{report.kind}",
        kind=report.kind,
        tags={view.TAG: view.report_view(report.metrics, report.panels)} if own_view else {},
    )
    run_id = tracker.publish(page_of(report), environment=environment())
    return {
        "mlflow": {
            "tracking_uri": shown(tracker.uri),
            "experiment_id": tracker.experiment_id,
            "run_ids": [run_id],
        }
    }


def page_of(report: Report) -> Page:
    """What MLflow is told about a report."""
    try:
        attachments = {name: path.read_bytes() for name, path in report.files.items()}
        panels = {entity_name(name): path.read_bytes() for name, path in report.panels.items()}
    except OSError as error:
        raise TrackingError(
            f"a file of {report.kind} {report.name!r} cannot be read: {error}.",
            hint="Run the command again, which makes it again.",
        ) from error
    tables = [{"path": name, "type": "table"} for name in report.files if name.endswith(".json")]
    tags = {
        **report.tags,
        "mlflow.source.name": f"editkit {report.kind}",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": report.note,
        "mlflow.loggedArtifacts": json.dumps(tables) if tables else "",
    }
    return Page(
        fingerprint=report.fingerprint,
        name=report.name,
        started=_milliseconds(report.started),
        finished=None if report.finished is None else _milliseconds(report.finished),
        params=parameters(report.params),
        metrics=finite(report.metrics),
        tags={name: value for name, value in tags.items() if value},
        curves={entity_name(name): _points(curve) for name, curve in report.curves.items()},
        attachments=attachments,
        panels=panels,
    )


def _points(curve: Sequence[Point]) -> list[tuple[int, float, int]]:
    """The finite points, as MLflow takes them."""
    return [
        (point.step, value, _milliseconds(point.time))
        for point in curve
        for value in finite({"": point.value}).values()
    ]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
