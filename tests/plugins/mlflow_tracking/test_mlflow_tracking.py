from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from tracking_samples import cell, finished_run, row, run_in, store_rows

from editkit import StoreError, TrackingError
from editkit.benchmark.store import rows_of
from editkit.results import Cell, Run
from editkit_plugins import mlflow_tracking
from editkit_plugins.mlflow_tracking import cells, enclosures, export, view
from editkit_plugins.mlflow_tracking.cells import log_cells
from editkit_plugins.mlflow_tracking.colors import run_colors
from editkit_plugins.mlflow_tracking.content import RunContent
from editkit_plugins.mlflow_tracking.database import quiet


class Mlflow:
    """Reads from MLflow, as its user interface does."""

    def __init__(self, uri: str) -> None:
        with quiet():
            from mlflow import MlflowClient

            self.client = MlflowClient(tracking_uri=uri)

    def runs(self, benchmark: str = "small") -> list[Any]:
        with quiet():
            experiment = self.client.get_experiment_by_name(f"editkit/{benchmark}")
            return list(self.client.search_runs([experiment.experiment_id])) if experiment else []

    def history(self, run_id: str, key: str) -> list[tuple[float, int, int]]:
        points = self.client.get_metric_history(run_id, key)
        return [(point.value, point.timestamp, point.step) for point in points]


def finish(run: Run) -> dict[str, Any]:
    mlflow_tracking.editkit_cell_finished(run)
    answer = mlflow_tracking.editkit_run_finished(run)
    return dict(answer["mlflow"]) if answer else {}


def test_every_cell_is_one_flat_run(out: Path) -> None:
    logged = finish(finished_run(out, "none", "rome"))
    assert logged["tracking_uri"] == f"sqlite:///{out}/mlflow.db"
    seen = Mlflow(logged["tracking_uri"])
    runs = {run.info.run_id: run for run in seen.runs()}
    assert len(logged["run_ids"]) == 2
    assert set(logged["run_ids"]) == set(runs)
    assert [runs[run_id].data.tags["editor"] for run_id in logged["run_ids"]] == ["none", "rome"]
    none, rome = (runs[run_id] for run_id in logged["run_ids"])
    assert rome.info.experiment_id == logged["experiment_id"]
    assert rome.info.run_name == "rome · tiny · facts"
    assert rome.info.status == "FINISHED"
    colors = {
        name: run.data.tags["mlflow.runColor"] for name, run in (("none", none), ("rome", rome))
    }
    assert colors == run_colors({"none": "none", "rome": "rome"})
    assert rome.data.metrics["efficacy/score"] == 0.75
    assert "efficacy/score_ci_low" not in rome.data.metrics  # three records
    assert rome.data.params["editor.layers"] == "[1,2]"
    assert rome.data.tags["editkit.fingerprint"] == "rome-f00d"
    assert "mlflow.parentRunId" not in rome.data.tags
    assert [item.dataset.name for item in none.inputs.dataset_inputs] == ["facts"]
    assert seen.history(rome.info.run_id, "efficacy/score") == [(0.75, rome.info.end_time, 0)]
    experiment = seen.client.get_experiment(logged["experiment_id"])
    assert "Benchmark **small**" in experiment.tags["mlflow.note.content"]
    assert view.TAG in experiment.tags


def test_an_edited_description_stays(out: Path) -> None:
    run = finished_run(out, "rome")
    logged = finish(run)
    client = Mlflow(logged["tracking_uri"]).client
    client.set_experiment_tag(logged["experiment_id"], "mlflow.note.content", "see our paper")
    client.set_experiment_tag(logged["experiment_id"], view.TAG, "broken")
    finish(run)
    tags = client.get_experiment(logged["experiment_id"]).tags
    assert tags["mlflow.note.content"] == "see our paper"
    assert tags[view.TAG] != "broken"


def test_artifacts_are_next_to_the_database(out: Path) -> None:
    run_id = finish(finished_run(out, "rome"))["run_ids"][0]
    folder = out / "mlartifacts" / run_id / "artifacts"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.yaml",
        "environment.json",
        "summary.json",
        "intervals.json",
        "records.json",
        "report.html",
        "records.parquet",
    }
    packages = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["packages"]
    assert {"editkit", "mlflow"} <= set(packages)
    table = pytest.importorskip("pyarrow.parquet").read_table(folder / "records.parquet")
    assert table.column("case_id").to_pylist() == [1, 2, 3]
    assert table.column("efficacy/nll_new").to_pylist()[0] == [0.1, 0.2]


def test_replaying_changes_nothing(out: Path) -> None:
    run = finished_run(out, "rome")
    first = finish(run)
    assert finish(run) == first
    assert export.run(Namespace(out=out)) == 0
    seen = Mlflow(first["tracking_uri"])
    assert [run.info.run_id for run in seen.runs()] == first["run_ids"]
    assert len(seen.history(first["run_ids"][0], "efficacy/score")) == 1


def test_figures_and_the_report_belong_to_every_run(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(out, "none", "rome")
    (out / "figures").mkdir()
    (out / "figures" / "layers.svg").write_text("<svg/>", encoding="utf-8")
    (out / "figures" / "layers.pdf").write_bytes(b"%PDF")
    folders = [out / "mlartifacts" / run_id / "artifacts" for run_id in finish(run)["run_ids"]]
    for folder in folders:
        assert [file.name for file in (folder / "figures").iterdir()] == ["layers.svg"]
        assert "rome" in (folder / "report.html").read_text(encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(enclosures, "report_page", lambda run: pytest.fail("written again"))
        finish(run)  # nothing is new
    (out / "figures" / "layers.svg").write_text("<svg>2</svg>", encoding="utf-8")
    finish(run)
    for folder in folders:
        figure = folder / "figures" / "layers.svg"
        assert figure.read_text(encoding="utf-8") == "<svg>2</svg>"


def test_runs_of_earlier_versions_lose_the_metrics_of_bounds(out: Path) -> None:
    run = finished_run(out, "rome")
    first = finish(run)
    tracker, [earlier] = log_cells(run, run.cells)
    tracker.client.log_metric(earlier, "efficacy/score_ci_low", 0.2)
    tracker.client.set_experiment_tag("1", "mlflow.note.content", "Benchmark **small** of old.")
    [later] = finish(run)["run_ids"]
    assert first["run_ids"] == [earlier] != [later]
    assert [each.info.run_id for each in Mlflow(first["tracking_uri"]).runs()] == [later]
    note = tracker.client.get_experiment("1").tags["mlflow.note.content"]
    assert "[ranked table](#/experiments/1/runs?" in note
    tracker.client.set_experiment_tag("1", "mlflow.note.content", "A user's.")
    finish(run)
    assert tracker.client.get_experiment("1").tags["mlflow.note.content"] == "A user's."


@pytest.mark.slow
def test_a_lost_database_is_recreated_from_the_store(tmp_path: Path) -> None:
    finished_run(tmp_path, "none", "rome")
    code = (
        "import argparse, sys, pathlib\n"
        "from editkit_plugins.mlflow_tracking import export\n"
        "export.run(argparse.Namespace(out=pathlib.Path(sys.argv[1])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"small: 2 runs in {uri}\n"
    assert {run.data.tags["editor"] for run in Mlflow(uri).runs()} == {"none", "rome"}


def test_a_lost_artifact_is_written_again(out: Path) -> None:
    run_id = finish(finished_run(out, "rome"))["run_ids"][0]
    lost = out / "mlartifacts" / run_id / "artifacts" / "records.parquet"
    lost.unlink()
    export.run(Namespace(out=out))
    assert lost.exists()


@pytest.mark.parametrize("es", [0.25, 1.0])
def test_corrected_rows_show_their_new_value(out: Path, es: float) -> None:
    """Even if only the value changed: MLflow would show the larger one."""
    run = run_in(out, [cell("rome")])
    store_rows(run, run.cells[0], [row(case, es=0.5) for case in (1, 2, 3)])
    logged = finish(run)
    store_rows(run, run.cells[0], [row(case, es=es) for case in (1, 2, 3)])
    assert finish(run)["run_ids"] == logged["run_ids"]
    (shown,) = Mlflow(logged["tracking_uri"]).runs()
    assert shown.data.metrics["efficacy/score"] == es


def test_another_slice_of_one_cell_replaces_its_run(out: Path) -> None:
    first = finish(finished_run(out, "rome"))
    changed = cell("rome")
    changed = dataclasses.replace(changed, params={**changed.params, "n_records": 1})
    second = finish(run_in(out, [changed]))
    assert second["run_ids"] != first["run_ids"]
    (shown,) = Mlflow(first["tracking_uri"]).runs()
    assert shown.data.params["n_records"] == "1"


def test_an_incomplete_cell_is_skipped(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_in(out, [cell("none"), cell("rome")])
    store_rows(run, run.cells[0], [row(1), row(2), row(3)])
    store_rows(run, run.cells[1], [row(1)])
    assert len(finish(run)["run_ids"]) == 1
    export.run(Namespace(out=out))
    assert "1 unfinished skipped" in capsys.readouterr().err


def test_a_deleted_experiment_is_restored(out: Path) -> None:
    run = finished_run(out, "rome")
    logged = finish(run)
    Mlflow(logged["tracking_uri"]).client.delete_experiment(logged["experiment_id"])
    assert finish(run)["experiment_id"] == logged["experiment_id"]


def test_an_existing_experiment_is_reused(out: Path, tmp_path: Path) -> None:
    theirs = (tmp_path / "theirs").as_uri()
    client = Mlflow(f"sqlite:///{out}/mlflow.db").client
    experiment_id = client.create_experiment("editkit/small", artifact_location=theirs)
    logged = finish(finished_run(out, "rome"))
    assert logged["experiment_id"] == experiment_id
    assert (tmp_path / "theirs" / logged["run_ids"][0]).is_dir()


def test_a_moved_folder_is_an_error(out: Path) -> None:
    run = finished_run(out, "rome")
    finish(run)
    moved = dataclasses.replace(run, out=out.rename(out.with_name("elsewhere")))
    with pytest.raises(TrackingError, match="was moved") as caught:
        mlflow_tracking.editkit_run_finished(moved)
    assert "export-mlflow" in str(caught.value.hint)


def test_the_environment_variable_chooses_another_database(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "team" / "shared.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}")
    logged = finish(finished_run(out, "rome"))
    assert logged["tracking_uri"] == f"sqlite:///{elsewhere}"
    assert len(Mlflow(logged["tracking_uri"]).runs()) == 1
    assert (tmp_path / "team" / "mlartifacts").is_dir()


def test_a_server_that_is_down_loses_no_rows(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = finished_run(out, "rome")
    mlflow_tracking.editkit_cell_finished(run)
    assert "Trying again" in caplog.text
    with pytest.raises(TrackingError, match=r"http://127\.0\.0\.1:9") as caught:
        mlflow_tracking.editkit_run_finished(run)
    assert caught.value.exit_code == 4
    assert "secret" not in caught.value.message + caplog.text
    assert "safe in the store" in str(caught.value.hint)
    assert len(rows_of(run, run.cells[0])) == 3


def test_a_damaged_database_is_a_clear_error(out: Path) -> None:
    (out / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(TrackingError, match=r"mlflow\.db"):
        mlflow_tracking.editkit_run_finished(finished_run(out, "rome"))


def test_without_tracking_nothing_happens(tmp_path: Path) -> None:
    run = dataclasses.replace(finished_run(tmp_path, "rome"), tracking=False)
    assert finish(run) == {}
    assert not (tmp_path / "mlflow.db").exists()


def test_exporting_without_a_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        export.run(Namespace(out=tmp_path))


def test_the_plugin_imports_no_mlflow() -> None:
    code = (
        "import sys, editkit_plugins.mlflow_tracking as plugin\n"
        "import editkit_plugins.mlflow_tracking.export, editkit_plugins.mlflow_tracking.ui\n"
        "plugin.editkit_commands()\n"
        "sys.exit(', '.join({'mlflow', 'torch', 'pandas'} & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_end_of_a_run_does_not_build_the_content_of_logged_cells_again(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, built = finished_run(out, "none", "rome"), list[str]()

    def content_of(run: Run, cell: Cell) -> RunContent:
        built.append(cell.editor)
        return original(run, cell)

    original = cells.content_of
    monkeypatch.setattr(cells, "content_of", content_of)
    cells.run_started(run)
    cells.cell_finished(run)
    assert not built  # a short run logs at its end
    monkeypatch.setattr(cells, "_SECONDS_BETWEEN", 0.0)
    cells.cell_finished(run)
    assert built == ["none", "rome"]
    logged = cells.run_finished(run)["mlflow"]["run_ids"]
    assert (built, len(logged)) == (["none", "rome"], 2)
    assert cells.run_finished(run)["mlflow"]["run_ids"] == logged
    assert built == ["none", "rome", "none", "rome"]
