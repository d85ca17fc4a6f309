"""`editkit run-benchmark --tasks`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from editkit import ConfigError, PluginError, runs_in
from editkit.benchmark import bench
from editkit.cli.main import main
from tests.plugins.lm_eval.sample_tasks import write_task

KEY = "lm_eval/answers/perplexity"


def command(out: Path, *arguments: str) -> list[str]:
    common = ["run-benchmark", "atlas", "--metrics", "efficacy", "--limit", "2", "--no-mlflow"]
    return [*common, "--json", "--out", str(out), *arguments]


def document(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(arguments) == 0
    written: dict[str, Any] = json.loads(capsys.readouterr().out)
    return written


def test_single_edits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = write_task(tmp_path, "answers")
    flags = ["--editor", "none", "--editor", "ft", "--set", "metrics.lm-eval.limit=3"]
    arguments = command(tmp_path, "--tasks", task, *flags)
    none, ft = document(arguments, capsys)["cells"]
    assert none["metrics"][KEY]["n"] == 2
    assert none["metrics"][f"{KEY}_change"]["mean"] == 0
    change = ft["metrics"][KEY]["mean"] - none["metrics"][KEY]["mean"]
    assert ft["metrics"][f"{KEY}_change"]["mean"] == pytest.approx(change)
    assert change != 0


def test_checkpoints_of_sequences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [write_task(tmp_path, name) for name in ("answers", "choices", "writing")]
    flags = ["--tasks", f"{tasks[0]},{tasks[1]}", "--tasks", tasks[2]]
    flags += ["--sequential", "2", "--checkpoints", "1,2", "--model-metrics", "change-norm"]
    arguments = command(tmp_path, "--editor", "ft", *flags)
    [cell] = document(arguments, capsys)["cells"]
    values = [checkpoint["models"][KEY]["mean"] for checkpoint in cell["checkpoints"]]
    assert len(set(values)) == 2
    assert {"lm_eval/choices/acc", "lm_eval/writing/exact_match/whole"} <= cell["models"].keys()
    assert "change_norm/max" in cell["models"]
    [stored] = runs_in(tmp_path)
    [described] = [each for each in stored.model_metrics if each["name"] == "lm-eval"]
    assert described["protocol"] == "editkit/lm-evaluation-harness/v1"
    assert described["depends_on"].keys() == {
        "lm_eval", "task answers", "task choices", "task writing",
    }  # fmt: skip
    monkeypatch.delattr(bench, "load_model_of")
    assert document(arguments, capsys)["cells"] == [cell]  # nothing is computed again


def test_only_models_that_facts_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model-metrics", "lm-eval", "--set", "model_metrics.lm-eval.limit=2"]
    task = write_task(tmp_path, "choices")
    arguments = command(tmp_path, "--editor", "none", "--joint", "2", "--tasks", task, *flags)
    [cell] = document(arguments, capsys)["cells"]
    assert cell["models"].keys() == {
        f"lm_eval/choices/{metric}{change}"
        for metric in ("acc", "acc_norm")
        for change in ("", "_change")
    }


def test_errors_come_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(bench, "load_model_of")
    arguments = command(tmp_path, "--joint", "2", "--tasks", str(tmp_path / "no.yaml"))
    assert main(arguments) == ConfigError.exit_code
    assert "no.yaml' does not exist" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(arguments) == PluginError.exit_code
    assert "pip install 'editkit[lm-eval]'" in capsys.readouterr().err
