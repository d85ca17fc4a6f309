"""The command ``editkit train``."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from editkit import EditRequest, Probe, Record
from editkit.cli.main import main
from editkit_plugins.learned.trained import read_editor_file
from editkit_plugins.learned.training.command import _spelled_out
from editkit_plugins.learned.training.trainer import CHECKPOINT_FILE
from editkit_plugins.mlflow_tracking.database import quiet

QUICK = ["--set", "steps=6", "--set", "validate_every=2", "--set", "rank=4", "--limit", "30"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def train(*arguments: str, shown: bool = False) -> int:
    quietly = [] if shown else ["--no-mlflow"]
    return main(["train", "mend", "--model", "atlas", *arguments, *quietly])


def test_a_trained_editor_is_found_by_name_and_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = ["run-benchmark", "--editor", "mend-zsre", "--limit", "3", "--no-mlflow", "--quiet"]
    assert main(run) == 2
    assert "mend-zsre has not been trained for atlas" in capsys.readouterr().err
    arguments = [
        "--dataset",
        "atlas",
        "--set",
        "dataset.split=train",
        "--name",
        "mend-zsre",
        *QUICK,
    ]
    assert train(*arguments, "--out", "trained", "--json") == 0
    out, err = capsys.readouterr()
    output = json.loads(out)
    assert output["steps"] == 6
    assert [row["step"] for row in output["history"]] == [2, 4, 6]
    assert {"ES", "PS", "NS", "S"} <= output["validation"].keys()
    assert "step 4/6" in err
    assert main(run) == 0
    out = capsys.readouterr().out
    assert "\nmend-zsre " in out
    assert main([*run, "--set", "editors.mend-zsre.trained=trained"]) == 0
    facts, _ = read_editor_file(tmp_path / "trained")
    assert facts["data_digest"] == output["data_digest"]
    assert facts["model"] == "atlas"
    capsys.readouterr()
    assert train(*arguments, "--out", "trained") == 0  # all done: nothing is trained again
    assert "resuming from step 6" in capsys.readouterr().err


@pytest.mark.slow
def test_training_is_shown_as_curves_in_mlflow(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    arguments = ["--dataset", "atlas", "--set", "dataset.split=train", *QUICK, "--quiet"]
    for _ in range(2):  # a finished training is shown again, and adds nothing
        assert train(*arguments, "--results", "shown", shown=True) == 0
    capsys.readouterr()
    with quiet():
        client = MlflowClient(f"sqlite:///{tmp_path / 'shown' / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("editkit/training")
        [run] = client.search_runs([experiment.experiment_id])
        assert run.info.run_name == "mend-cf · atlas · atlas"
        assert run.info.status == "FINISHED"
        assert run.data.params["rank"] == "4"
        for curve in ("train/edit_nll", "validation/locality_kl", "validation/summary"):
            history = client.get_metric_history(run.info.run_id, curve)
            assert [point.step for point in history] == [2, 4, 6]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody is there
    assert train(*arguments, shown=True) == 4
    assert "MLflow" in capsys.readouterr().err


@pytest.mark.slow
def test_each_kind_of_data_trains_its_own_editor(
    test_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = "editkit_benchmarks.atlas:corpus_texts"
    limit = ["--limit", "200"]
    quick = [*QUICK, "--set", "steps=2"]
    assert train("--dataset", "text", "--corpus", corpus, *quick, *limit, "--quiet") == 0
    assert capsys.readouterr().out.startswith("mend for atlas")
    flat = str(test_data / "data" / "zsre_mend_train.json")
    assert train("--dataset", "zsre", "--data", flat, *quick, "--quiet") == 0
    assert capsys.readouterr().out.startswith("mend-zsre for atlas")
    records = ["--set", f"dataset.path={flat}", "--set", "dataset.target=alternative"]
    assert train("--dataset", "zsre", *records, *quick, *limit, "--quiet", "--fresh") == 0
    assert capsys.readouterr().out.startswith("mend-zsre for atlas")


def test_the_digest_of_training_data_covers_whole_records() -> None:
    """Its text is that of earlier versions, so that trained editors are found again."""
    request = EditRequest("{} 'x'", "b" * 200, "c")
    record = Record(1, request, {"k": (Probe("p", "t", "n"),), "l": ()}, {"t": ("a", 'b"')})
    assert _spelled_out(record) == (
        "Record(case_id=1, request=EditRequest(prompt=\"{} 'x'\", subject='" + "b" * 200 + "', "
        "target_new='c', target_true=None, relation_id=None, separator=None, chat=False), "
        "probes={'k': (Probe(prompt='p', target_true='t', target_new='n', separator=None, "
        "chat=False),), 'l': ()}, texts={'t': ('a', 'b\"')})"
    )
    untouched = dataclasses.replace(record, aliases={"c": ("d",)})
    assert _spelled_out(untouched) == _spelled_out(record)
    assert _spelled_out(dataclasses.replace(record, also=(request,))) != _spelled_out(record)


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--dataset", "zsre"], "--dataset zsre needs a training file", 2),
        (["--dataset", "text"], "needs texts", 2),
        (["--dataset", "nobody"], "no dataset named 'nobody'", 3),
        (["--dataset", "zsre", "--data", "absent.json"], "absent.json", 2),
        (["--dataset", "atlas", "--set", "lr=fast"], "lr is 'fast'", 2),
        (["--dataset", "atlas", "--set", "no_such=1"], "no_such is 1", 2),
        (["--dataset", "atlas", "--set", "blocks=99", "--limit", "30"], "blocks is 99", 2),
        (["--dataset", "atlas", "--set", "lr"], "expected a.b=value", 2),
        (["--dataset", "atlas", "--limit", "1"], "cannot be split", 2),
    ],
)
def test_invalid_arguments_have_clear_errors(
    arguments: list[str], message: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*arguments) == code
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_training_resumes_after_kill_9_to_the_same_weights(tmp_path: Path) -> None:
    arguments = ["--dataset", "atlas", "--set", "dataset.split=train", "--limit", "30"]
    arguments += ["--set", "steps=24", "--set", "validate_every=4", "--set", "rank=4"]

    def command(out: str) -> list[str]:
        return ["train", "mend", "--model", "atlas", "--no-mlflow", *arguments, "--out", out]

    child = subprocess.Popen(
        [sys.executable, "-m", "editkit", *command("parts")], stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    assert child.stderr.readline() == "0/24 steps: training mend\n"
    assert child.stderr.readline().startswith("step 4/24")
    assert child.stderr.readline().startswith("step 8/24")
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stderr.close()
    assert (tmp_path / "parts" / CHECKPOINT_FILE).exists()
    assert not (tmp_path / "parts" / "editor.safetensors").exists()
    for out in ("parts", "whole"):
        assert main(command(out)) == 0
    parts, whole = (read_editor_file(tmp_path / out)[1] for out in ("parts", "whole"))
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


def test_the_fingerprint_of_results_depends_on_the_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fingerprint() -> str:
        run = ["run-benchmark", "--editor", "mend-zsre", "--limit", "2", "--dry-run", "--json"]
        assert main(run) == 0
        return str(json.loads(capsys.readouterr().out)["cells"][0]["fingerprint"])

    assert main(["run-benchmark", "--editor", "mend-zsre", "--limit", "2", "--dry-run"]) == 2
    assert "mend-zsre has not been trained" in capsys.readouterr().err
    arguments = ["--dataset", "atlas", "--name", "mend-zsre", *QUICK, "--set", "steps=2", "--quiet"]
    result = []
    for seed in ("1", "2", "1"):
        assert train(*arguments, "--fresh", "--set", f"seed={seed}") == 0
        capsys.readouterr()
        result.append(fingerprint())
    assert result[0] == result[2]
    assert len(set(result)) == 2
