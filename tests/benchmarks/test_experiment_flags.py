"""Flags of experiments, their published numbers, and the layout of their figures."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import pandas
import pytest

from editkit.cli.main import main
from editkit.palette import GREY
from editkit.registry.config import config_class
from editkit.registry.plugins import default_registry
from editkit_benchmarks.experiments.layout import columns_of, styles_of_lines
from editkit_benchmarks.experiments.selection import with_editors
from editkit_benchmarks.experiments.spec import load_experiment

MINE = """
name: mine
summary: s
benchmark:
  {model: atlas, dataset: atlas, limit: 2, metrics: [efficacy, paraphrase], editors: [none]}
sweep:
  - {editor: ft, grid: {lr: {slow: 0.0001, fast: 0.01}}}
figures:
  - {name: both, kind: bars, scores: [efficacy/score, paraphrase/score]}
  - {name: paraphrases, kind: lines, x: lr, scores: [paraphrase/score]}
published:
  - source: A paper
    model: gpt2-xl
    dataset: counterfact
    settings:
      - {editor: ft, config: {lr: fast}, scores: {efficacy/score: 12.5, neighborhood/score: 1}}
      - {editor: kn, scores: {efficacy/score: 99}}
"""


def fields_of(editor: str) -> Collection[str]:
    return config_class(default_registry().get("editor", editor)).model_fields


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(MINE, encoding="utf-8")


def run(*arguments: str) -> int:
    flags = ("--no-mlflow", "--quiet", "--out", "out")
    return main(["run-experiment", "mine.yaml", *arguments, *flags])


@pytest.mark.usefixtures("mine")
def test_published_numbers_are_beside_ours_and_marked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "ft (fast), published gpt2-xl 12.5" in output
    assert "Ours are of atlas on atlas" in output
    assert " 99.0" not in output  # of kn, which did not run
    table = pandas.read_csv("out/figures/mine-published.csv")
    assert list(table["model"]) == ["atlas", "gpt2-xl"]
    assert [head for head in table if head not in ("setting", "model")] == [
        "ES"
    ]  # no NS was scored


@pytest.mark.usefixtures("mine")
def test_editors_and_metrics_are_chosen_and_added(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--editor", "attnedit", "--metrics", "efficacy,neighborhood") == 0
    output, warnings = capsys.readouterr()
    assert re.search(r"^attnedit \(lr 0.01\)", output, re.MULTILINE)
    assert not re.search("^(none|ft)", output, re.MULTILINE)
    assert "attnedit is swept over the lr of ft" in warnings
    assert "figure both has no panel for paraphrase/score" in warnings
    assert "figure paraphrases is left out" in warnings
    assert {path.stem for path in Path("out/figures").iterdir()} == {"both"}


def test_editors_of_other_experiments_get_a_grid_if_they_have_its_fields() -> None:
    prefixes, notes = with_editors(load_experiment("prefix-ablation"), ["none", "memit"], fields_of)
    assert [sweep.editor for sweep in prefixes.sweep] == ["memit"]
    assert notes == ["memit is swept over the context_lengths of rome"]
    layers, notes = with_editors(load_experiment("layer-token-sweep"), ["rome", "kn"], fields_of)
    assert layers.sweep == load_experiment("layer-token-sweep").sweep
    assert layers.benchmark["editors"] == [{"name": "kn"}]
    assert notes == ["kn has one setting: it has no layer and no position"]
    sequences, _ = with_editors(load_experiment("sequential-editing"), ["emmet"], fields_of)
    [regime] = sequences.benchmark["editors"][0]["edits"]
    assert regime["sequential"] == 1000
    traced, _ = with_editors(load_experiment("knowing-vs-saying"), ["none", "ft"], fields_of)
    assert traced.tracing is not None
    assert traced.tracing.after == ("ft",)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--editor", "rome"], "--editor: experiment severed-effects traces facts and edits"),
        (["--model", "gpt2-xl", "--dataset", "zsre"], "traces the facts of known_1000 on this"),
    ],
)
def test_a_flag_that_cannot_apply_is_refused(
    flags: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run-experiment", "severed-effects", *flags]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("mine")
def test_a_width_that_is_not_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--set", "figures.width=wide") == 2
    assert "figures: width: got 'wide'" in capsys.readouterr().err


def test_editors_keep_their_style_and_settings_differ_in_colour() -> None:
    lines = {"unedited": "none", "rome": "rome", "ft+l, 1": "ft+l", "ft+l, 2": "ft+l"}
    styles = styles_of_lines(lines)
    assert styles["unedited"].color == GREY
    assert styles["rome"] == styles_of_lines({"other": "ft", "rome": "rome"})["rome"]
    assert len({style.color for style in styles.values()}) == 4


@pytest.mark.parametrize(
    ("n", "width", "columns"), [(4, 7.2, 4), (4, 3.4, 2), (5, 7.2, 3), (1, 2, 1)]
)
def test_panels_are_spread_over_rows(n: int, width: float, columns: int) -> None:
    assert columns_of(n, width, 1.65) == columns
