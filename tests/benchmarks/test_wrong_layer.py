from __future__ import annotations

from pathlib import Path

import pytest

from editkit.cli.main import main


def test_a_layer_that_does_not_exist_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The editor that comes last is wrong: the ones before it must not have run."""
    command = ["run-benchmark", "--limit", "1", "--no-mlflow", "--json", "--out", str(tmp_path)]
    command += ["--editor", "none", "--editor", "rome"]
    assert main([*command, "--set", "editors.rome.layer=99"]) == 2
    output = capsys.readouterr()
    assert "layer 99 does not exist" in output.err
    assert "1/2 edits" not in output.err
    assert not output.out
