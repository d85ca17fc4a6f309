"""Figures about several cells: artifacts of an MLflow run of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editkit_plugins.mlflow_tracking import view
from editkit_plugins.mlflow_tracking.database import tracking_uri
from editkit_plugins.mlflow_tracking.observer import experiment_name
from editkit_plugins.mlflow_tracking.tracker import Tracker, speaking_to

if TYPE_CHECKING:
    from editkit.results import Run

_TAG = "editkit.figures"


def show_figures(run: Run, name: str, files: Sequence[Path]) -> str:
    """Keep figures in the experiment of a benchmark's runs; doing it again replaces them.

    Args:
        run: The run that they are about.
        name: What the MLflow run is called and found by.
        files: The figures.

    Returns:
        Id of the MLflow run.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    tracker = Tracker(
        tracking_uri(run.out),
        experiment=experiment_name(run.benchmark),
        tags={view.TAG: view.shared_view(run.scores)},
    )
    with speaking_to(tracker.uri):
        found = tracker.client.search_runs(
            [tracker.experiment_id], filter_string=f"tags.`{_TAG}` = '{name}'", max_results=1
        )
        if found:
            run_id = str(found[0].info.run_id)
        else:
            made = tracker.client.create_run(
                tracker.experiment_id, run_name=f"figures · {name}", tags={_TAG: name}
            )
            run_id = str(made.info.run_id)
        for file in files:
            tracker.client.log_artifact(run_id, str(file), "figures")
        tracker.client.set_terminated(run_id, status="FINISHED")
        return run_id
