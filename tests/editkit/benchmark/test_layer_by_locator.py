"""``layer: auto:LOCATOR``: a layer chosen on facts that are not scored, with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from editkit.cli.main import main

ROME = ["run-benchmark", "--editor", "rome", "--limit", "3", "--no-mlflow", "--quiet"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    assert main([*ROME, "--dry-run", "--json", *arguments]) == 0
    out, err = capsys.readouterr()
    return json.loads(out)["cells"][0], err


def test_a_locator_chooses_the_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    auto = ["--set", "editors.rome.layer=auto:causal-tracing"]
    cell, log = planned(capsys, *auto)
    assert cell["config"]["layer"] == 0
    assert "rome: layer 0, with the largest effect of causal-tracing" in log
    assert "known facts of the training split of atlas" in log
    same, _ = planned(capsys, "--set", "editors.rome.layer=0")
    other, _ = planned(capsys, "--set", "editors.rome.layer=1")
    assert cell["fingerprint"] == same["fingerprint"] != other["fingerprint"]
    assert list((tmp_path / "cache" / "auto-layer").glob("*.json"))
    usual, _ = planned(capsys, "--set", "editors.rome.layer=auto")
    assert usual["fingerprint"] == cell["fingerprint"]


def test_auto_needs_an_editor_with_a_usual_locator(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["run-benchmark", "--editor", "mend", "--limit", "2", "--dry-run"]
    assert main([*given, "--set", "editors.mend.layer=auto"]) == 2
    assert "mend names no locator for it" in capsys.readouterr().err


def test_a_dataset_without_a_training_split_gives_its_unscored_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from editkit_benchmarks.atlas import records_path

    path = tmp_path / "records.json"
    path.write_text(
        json.dumps(json.loads(records_path("test").read_text(encoding="utf-8"))[:13]),
        encoding="utf-8",
    )
    arguments = ["--dataset", "counterfact", "--set", f"dataset.path={path}"]
    arguments += ["--set", "editors.rome.layer=auto:saliency"]
    _, log = planned(capsys, *arguments)
    assert "of unscored counterfact" in log
    assert main([*ROME, *arguments, "--limit", "13"]) == 2
    assert "all of its records are scored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "message", "code"),
    [
        ("auto:nobody", "no locator named 'nobody'", 3),
        ("automatic", "got 'automatic'", 2),
    ],
)
def test_bad_input_is_reported(
    value: str, message: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ROME, "--set", f"editors.rome.layer={value}"]) == code
    assert message in capsys.readouterr().err
