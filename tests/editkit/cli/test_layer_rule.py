from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from editkit.cli.main import main
from editkit.registry.models import model_folder

SAID = "no file of values for '{}': layer 2 of 6, a third of the depth"


@pytest.fixture
def unknown(tmp_path: Path) -> str:
    """A model that no file of values knows."""
    folder = tmp_path / "my-gpt2"
    shutil.copytree(model_folder("atlas"), folder)
    return str(folder)


def test_run_benchmark_reports_the_layer_once(
    unknown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["run-benchmark", "atlas", "--model", unknown, "--editor", "rome", "--limit", "2"]
    given += ["--seed", "0", "--seed", "1", "--out", str(tmp_path / "out"), "--dry-run", "--json"]
    assert main(given) == 0
    out, err = capsys.readouterr()
    assert err.count(SAID.format(unknown)) == 1
    assert err.startswith("info: rome: ")
    cells = json.loads(out)["cells"]
    assert [cell["config"]["layer"] for cell in cells] == [2, 2]
    assert {cell["sources"]["layer"] for cell in cells} == {"fallback rule"}
    assert main([*given, "--set", "editors.rome.layer=4"]) == 0
    out, err = capsys.readouterr()
    assert "layer 2 of 6" not in err
    assert json.loads(out)["cells"][0]["rule"] is None


def test_describe_shows_the_layer(unknown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "rome", "--model", unknown]) == 0
    out = capsys.readouterr().out
    assert f"  fallback rule: {SAID.format(unknown)}" in out
    assert "  layer = 2  (int >= 0 | None)  [fallback rule]" in out


def test_describe_shows_where_the_papers_values_come_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["describe", "rome", "--model", "openai-community/gpt2-xl"]) == 0
    out = capsys.readouterr().out
    assert "  layer = 17  (int >= 0 | None)  [editkit_configs/rome/models.yaml]" in out
    assert "  clamp = 4.0  (float > 0 | None)  [default]" in out
    assert "  note: as published" in out
    assert "fallback rule" not in out
