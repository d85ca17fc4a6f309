"""Sequences in MLflow: the regime as parameters, and scores at each checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from editkit.regimes import Regime
from editkit_plugins.mlflow_tracking.cells import content_of, log_cells
from tests.editkit.report.shared_runs import SEQUENTIAL, cell, write_shared


def test_a_sequence_is_logged_at_its_checkpoints_and_a_replay_adds_nothing(out: Path) -> None:
    run = write_shared(out, cells=(cell("rome", SEQUENTIAL),))
    ids = [log_cells(run, run.cells, rewrite=True)[1] for _ in range(2)]
    tracker, [run_id] = log_cells(run, run.cells)
    assert ids == [[run_id], [run_id]]
    logged = tracker.client.get_run(run_id).data
    assert logged.params["edits"] == "sequential 20"
    assert (logged.params["edits.facts"], logged.params["edits.step"]) == ("20", "1")
    for key, values in {
        "efficacy/score": [1.0, 0.91, 0.81],
        "newest/efficacy/score": [1.0, 1.0, 1.0],
        "perplexity/value": [20.4, 24.0, 28.0],
    }.items():
        points = tracker.client.get_metric_history(run_id, key)
        assert [point.step for point in points] == [1, 10, 20]
        assert [round(point.value, 6) for point in points] == values
    assert not any("_ci_" in key for key in logged.metrics)  # one model


def test_scores_of_joint_models_have_bounds(tmp_path: Path) -> None:
    run = write_shared(tmp_path, cells=(cell("rome", Regime.joint(4)),))  # five models
    content = content_of(run, run.cells[0])
    assert not content.curves
    assert content.step == 4
    assert content.metrics["perplexity/collapsed"] == 0.0
    [*_, line] = json.loads(content.files["intervals.json"])["data"]
    assert line == ["Coll · perplexity/collapsed", "0.0 -0/+43.4", 5, 0.0, 0.0, 0.434491]
    wanted = {"edits": "joint 4", "regime": "joint", "edits.facts": "4", "batch": str(run.batch)}
    assert wanted.items() <= content.params.items()


def test_the_table_of_intervals_has_every_checkpoint(tmp_path: Path) -> None:
    run = write_shared(tmp_path, cells=(cell("rome", SEQUENTIAL),))
    table = json.loads(content_of(run, run.cells[0]).files["intervals.json"])
    names = [line[0] for line in table["data"]]
    assert [name for name in names if name.startswith("ES · ")] == [
        f"ES · efficacy/score after {n}" for n in (1, 10, 20)
    ]
    assert "newest/efficacy/score after 10" in names
