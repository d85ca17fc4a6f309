"""The benchmark ``as-used``, from its file to the scores of all of its metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from editkit.cli.main import main


@pytest.mark.slow
def test_edits_are_measured_as_they_are_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run-benchmark", "as-used", "--editor", "none", "--editor", "mend-cf"]
    flags = ["--limit", "5", "--no-mlflow", "--quiet", "--json"]
    assert main([*command, *flags, "--out", str(tmp_path)]) == 0
    none, edited = (cell["metrics"] for cell in json.loads(capsys.readouterr().out)["cells"])
    names = {key.partition("/")[0] for key in edited}
    assert names >= {
        "efficacy", "paraphrase", "neighborhood", "free", "consequences", "shift", "perplexity",
        "drift",
    }  # fmt: skip
    assert edited["efficacy/score"]["mean"] > none["efficacy/score"]["mean"]
    assert none["consequences/kept"]["mean"] == 1
    assert none["consequences/kept_changed"]["mean"] == 0
    assert edited["consequences/executed"] == none["consequences/executed"]
    assert edited["consequences/kept_before"] == none["consequences/kept"]
    assert edited["consequences/edited"]["mean"] > none["consequences/edited"]["mean"]
