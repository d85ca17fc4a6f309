"""The benchmark with every metric, from its file to texts that can be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from editkit.cli.main import main
from editkit.registry.plugins import default_registry


def test_every_metric_scores_the_embedded_world(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run-benchmark", "atlas-generation", "--editor", "none", "--editor", "mend-cf"]
    flags = ["--limit", "3", "--set", "batch=2", "--no-mlflow", "--quiet", "--json"]
    assert main([*command, *flags, "--out", str(tmp_path)]) == 0
    document = json.loads(capsys.readouterr().out)
    names = ("efficacy", "paraphrase", "neighborhood", "fluency", "consistency", "essence")
    wanted = {
        score.key
        for name in (*names, "same-subject", "attribute", "correctness")
        for score in default_registry().get("metric", name).spec.scores
    }
    none, edited = (cell["metrics"] for cell in document["cells"])
    assert wanted | {"summary/score"} == set(none) == set(edited)
    assert 5 < none["fluency/entropy"]["mean"] < 8
    assert edited["consistency/reference"]["mean"] > none["consistency/reference"]["mean"]
    assert edited["correctness/rewrite"]["mean"] > none["correctness/rewrite"]["mean"]
    assert main(["show-generations", "0", "--out", str(tmp_path), "--json"]) == 0
    [run] = json.loads(capsys.readouterr().out)["runs"]
    assert {label: len(texts) for label, texts in run["texts"].items()} == {
        "none": 10,
        "mend-cf": 10,
    }
