"""Reports become MLflow runs that can be updated, repeated, and finished."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from test_mlflow_view import SHORTEST_TAG_LIMIT
from tracking_samples import NOON

from editkit import TrackingError
from editkit.benchmark.observers import publish
from editkit.data_types import Point, Report
from editkit_plugins.mlflow_tracking import editkit_reported
from editkit_plugins.mlflow_tracking.database import quiet
from editkit_plugins.mlflow_tracking.tracker import experiments_with_runs
from editkit_plugins.mlflow_tracking.view import KEY, first_page, report_view


def report(out: Path, *, points: int, finished: bool = False, **changes: Any) -> Report:
    curve = [Point(10 * n, 1 / n, NOON + n) for n in range(1, points + 1)]
    made = Report(
        out=out,
        kind="training",
        name="mend · tiny",
        fingerprint="f00d",
        started=NOON,
        finished=NOON + points if finished else None,
        params={"lr": 1e-3, "nothing": None},
        metrics={"best/summary": 0.5},
        curves={"validation/summary": curve, "odd": [Point(0, float("inf"), NOON)]},
        tags={"editor": "mend"},
    )
    return dataclasses.replace(made, **changes)


def runs(out: Path) -> tuple[Any, list[Any]]:
    with quiet():
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("editkit/training")
        return client, list(client.search_runs([experiment.experiment_id]))


def test_a_report_is_updated_until_it_is_finished(out: Path) -> None:
    for points in (1, 3, 3):
        logged = editkit_reported(report(out, points=points))["mlflow"]
        client, [run] = runs(out)
        assert run.info.run_id == logged["run_ids"][0]
        assert run.info.status == "RUNNING"
        history = client.get_metric_history(run.info.run_id, "validation/summary")
        assert [(p.step, p.value) for p in history] == [
            (10 * n, 1 / n) for n in range(1, points + 1)
        ]
    editkit_reported(report(out, points=3, finished=True))
    _, [run] = runs(out)
    assert run.info.status == "FINISHED"
    assert run.info.end_time == round(1000 * (NOON + 3))
    assert run.data.params == {"lr": "0.001"}
    assert "odd" not in run.data.metrics


def test_files_become_artifacts_and_tables(out: Path, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "numbers.json").write_text('{"columns": [], "data": []}', encoding="utf-8")
    files = {
        "figures/picture.png": tmp_path / "picture.png",
        "numbers.json": tmp_path / "numbers.json",
    }
    editkit_reported(report(out, points=1, files=files))
    client, [run] = runs(out)
    with quiet():
        kept = {file.path for file in client.list_artifacts(run.info.run_id, "figures")}
    assert kept == {"figures/picture.png"}
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "numbers.json", "type": "table"}
    ]
    digest = run.data.tags["editkit.content"]
    (tmp_path / "picture.png").write_bytes(b"\x89PNG anew")
    editkit_reported(report(out, points=1, files=files))
    assert runs(out)[1][0].data.tags["editkit.content"] != digest
    (tmp_path / "picture.png").unlink()
    with pytest.raises(TrackingError, match=r"picture\.png"):
        editkit_reported(report(out, points=1, files=files))


def test_publishing_never_raises(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert publish(report(out, points=1))["mlflow"]["run_ids"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing listens there
    assert "failed: " in publish(report(out, points=1))["failed"]
    assert "editkit explain errors/tracking" in caplog.text


def test_reports_with_curves_open_in_mlflows_own_view() -> None:
    page = first_page("7", None)
    assert "compareRunsMode=CHART" in page
    assert KEY not in page


def test_reports_with_single_numbers_open_as_a_list(out: Path) -> None:
    editkit_reported(report(out, points=0, kind="traces", curves={}, metrics={"mlp/last (1)": 0.5}))
    editkit_reported(report(out, points=1))
    experiments = experiments_with_runs(f"sqlite:///{out / 'mlflow.db'}")
    assert {name: view is not None for name, (_, view) in experiments.items()} == {
        "editkit/traces": True,
        "editkit/training": False,
    }
    page = first_page("7", experiments["editkit/traces"][1])
    assert "compareRunsMode=TABLE" in page
    assert page.endswith(f"viewStateShareKey={KEY}")
    columns = json.loads(report_view(["mlp/last (1)", "b"], []))["selectedColumns"]
    assert columns == ["metrics.`mlp/last -1-`", "metrics.`b`"]
    many = report_view(
        (f"severed attention/{'further subject tokens'} {n}" for n in range(100)), ["maps", "lines"]
    )
    assert len(many) < SHORTEST_TAG_LIMIT


def png(path: Path, shade: int) -> Path:
    PIL.Image.new("RGB", (40, 20), (shade, 0, 0)).save(path)
    return path


def test_images_of_one_name_share_a_panel(out: Path, tmp_path: Path) -> None:
    first, second = png(tmp_path / "a.png", 10), png(tmp_path / "b.png", 200)

    def shown(picture: Path) -> list[str]:
        with_panel = report(out, points=0, curves={}, finished=True, panels={"maps": picture})
        editkit_reported(with_panel)
        client, [run] = runs(out)
        with quiet():
            files = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
        return sorted(path for path in files if path.endswith(".png"))

    [once] = shown(first)
    assert once.startswith("images/maps+step+0+timestamp+")
    assert shown(first) == [once]
    [_, later] = shown(second)
    assert int(later.split("+")[4]) > int(once.split("+")[4])  # the latest one is shown
    experiments = experiments_with_runs(f"sqlite:///{out / 'mlflow.db'}")
    [(_, view)] = experiments.values()
    assert view is not None
    assert [chart["imageKeys"] for chart in json.loads(view)["compareRunCharts"]] == [["maps"]]
    assert "compareRunsMode=CHART" in first_page("7", view)
    editkit_reported(report(out, points=0, curves={}, metrics={}, fingerprint="figures"))
    assert experiments_with_runs(f"sqlite:///{out / 'mlflow.db'}") == experiments  # the view stays
