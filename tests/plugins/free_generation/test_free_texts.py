"""Free texts next to sampled ones: in the store, on the terminal, in the report, and to raters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from editkit.cli.main import main
from editkit_plugins.rating.comparisons import chosen_pair, comparisons


@pytest.mark.slow
def test_texts_of_both_kinds_are_shown_apart_and_only_sampled_ones_are_rated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def editkit(*words: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    out = tmp_path / "out"
    editors = ("--editor", "ft", "--editor", "mend-cf")
    given = (
        "--metrics",
        "fluency,free",
        "--set",
        "metrics.fluency.tokens=30",
        "--limit",
        2,
        "--no-mlflow",
    )
    table = editkit("run-benchmark", "atlas", *editors, *given, "--out", out)
    for column in ("TF E", "Free E", "Gap E", "TF P", "Free P", "TF N", "Free N", "GE"):
        assert column in table
    text = editkit("show-generations", 0, "--out", out, "--width", 120)
    lines = text.splitlines()
    keys = [f"free/{kind}_texts" for kind in ("neighborhood", "paraphrase", "rewrite")]
    places = [lines.index(key) for key in (*keys, "generation")]
    assert places == sorted(places)
    assert any("brought to the market by Honda" in line for line in lines[places[2] : places[3]])
    text = editkit("show-generations", 0, "--out", out, "--json")
    [run] = json.loads(text)["runs"]
    sampled: list[Any] = []
    for label, written in run["written"].items():
        assert list(written) == [*keys, "generation"]
        assert run["texts"][label] == [text for texts in written.values() for text in texts]
        sampled += written["generation"]
    page = tmp_path / "page.html"
    editkit("report", out, "--format", "html", "--to", page)
    assert "brought to the market by" in page.read_text(encoding="utf-8")
    pairs = comparisons(chosen_pair(out, ["ft", "mend-cf"]), limit=None, seed=0)
    assert any(each.case_id == 0 for each in pairs)
    assert {text for each in pairs if each.case_id == 0 for text in each.texts} <= {*sampled}
