"""Experiments about many facts in one model: their curves, tables, figures and small versions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from editkit import ConfigError, EditRequest, Score
from editkit.benchmark.aggregate import metrics_of
from editkit.benchmark.samples import Sample, Series, State
from editkit.benchmark.spec import Benchmark, validated
from editkit.cli.main import main
from editkit.regimes import Regime
from editkit.report.lines import results_of
from editkit.report.sections import Section
from editkit.report.tables import Table
from editkit.results import Cell, ModelRow, Row, Run
from editkit_benchmarks.experiments import edit_figures, tables
from editkit_benchmarks.experiments.curves import curves_of, falls_below, geometric_mean
from editkit_benchmarks.experiments.limits import within_limit
from editkit_benchmarks.experiments.spec import (
    FigureSpec,
    TableSpec,
    load_experiment,
    parse_experiment,
)

SCORES = (Score("m/score", "M", at_edit=True),)
MODEL_SCORES = (
    Score("perplexity/ratio", "PPLx", higher_is_better=False, scale=1.0),
    Score("perplexity/collapsed", "Coll"),
)


# ---------------------------------------------------------------- numbers


def test_a_score_falls_below_a_level_between_checkpoints() -> None:
    assert falls_below([(10, 0.9), (100, 0.1)], 0.5) == pytest.approx(10 * math.sqrt(10))
    assert falls_below([(10, 0.9), (100, 0.6), (1000, 0.2)], 0.5) == pytest.approx(
        100 * 10 ** (0.1 / 0.4)
    )
    assert falls_below([(1, 0.0), (10, 0.9), (100, 0.1)], 0.5) == pytest.approx(10 * 10**0.5)
    assert falls_below([(1, 0.0), (10, 0.9)], 0.5) is None
    assert falls_below([(3, 0.4), (10, 0.3)], 0.5) == 3


def test_geometric_means_have_intervals_of_the_logarithm() -> None:
    mean = geometric_mean([1.0, 100.0] * 3)
    # Student's t of 5 degrees times the standard error.
    half = 2.5706 * math.log(10) / math.sqrt(5)
    assert mean.mean == pytest.approx(10)
    assert mean.ci_low == pytest.approx(10 * math.exp(-half), rel=1e-3)
    assert mean.ci_high == pytest.approx(10 * math.exp(half), rel=1e-3)
    assert geometric_mean([4.0]).ci_low is None


# ---------------------------------------------------------------- a run made for these tests


def cell(editor: str, regime: Regime, seed: int = 0, **config: object) -> Cell:
    name = f"{editor}{config}{regime.label}{seed}"
    return Cell(
        editor=editor,
        preset=None,
        config=config,
        sources={},
        distribution="d",
        version="1",
        seed=seed,
        fingerprint=name,
        params={},
        edits=regime.to_dict(),
    )


def state(at: int, shown: Mapping[int, Sequence[float]], ratios: Mapping[int, float]) -> State:
    """A state with one model per seed: scores of its facts, and its perplexity ratio."""
    facts = {
        seed: tuple(
            Row(
                *(i, "done", {"m/score": score}),
                notes={"delta_norm": 100.0 if i == 1 else 2.0},
                place=i + 1,
                checkpoint=at,
            )
            for i, score in enumerate(scores)
        )
        for seed, scores in shown.items()
    }
    models = {
        seed: (ModelRow(0, at, {"perplexity/ratio": r, "perplexity/collapsed": float(r > 10)}),)
        for seed, r in ratios.items()
    }
    return State(at, Sample(facts, shared=True), models)


def joint(editor: str, facts: int, score: float, ratio: float, **config: object) -> Series:
    own = state(facts, {0: [score] * facts}, {0: ratio})
    return Series((cell(editor, Regime.joint(facts), **config),), (own,))


def sequence(editor: str, scores: Mapping[int, Mapping[int, float]], step: int = 1) -> Series:
    """Scores by checkpoint and seed; the ratio is 1, but 100 for seed 1 at the last checkpoint."""
    marks = sorted(scores)
    seeds = sorted(scores[marks[0]])
    regime = Regime.sequential(marks[-1], step=step, checkpoints=marks)
    return Series(
        tuple(cell(editor, regime, seed) for seed in seeds),
        tuple(
            state(
                at,
                {seed: [scores[at][seed]] * at for seed in seeds},
                {seed: 100.0 if seed == 1 and at == marks[-1] else 1.0 for seed in seeds},
            )
            for at in marks
        ),
    )


def section_of(*series: Series) -> Section:
    run = Run(
        out=Path("out"),
        benchmark="b",
        model={"name": "atlas"},
        dataset={"name": "atlas", "n_records": 10},
        metrics=(),
        scores=SCORES,
        seeds=(0,),
        cells=tuple(cell for each in series for cell in each.cells),
        batch=1,
        model_metrics=({"name": "perplexity", "config": {"threshold": 10.0}},),
        model_scores=MODEL_SCORES,
    )
    last = [each.last for each in series for _ in each.cells]
    return Section(
        run=run,
        title="t",
        labels=tuple(cell.editor for cell in run.cells),
        rows=tuple(tuple(sample.rows) for sample in last),
        estimates=tuple(metrics_of(sample, SCORES) for sample in last),
        series=tuple(series),
        results=results_of(run, series),
        requests={0: (EditRequest("{} is in", "Rome", "Peru"),)},
        published=(),
        warnings=(),
    )


def texts(table: Table) -> list[list[str]]:
    return [[entry.plain for entry in line.entries] for line in table.lines]


ENDURANCE = TableSpec(name="e", kind="endurance", score="m/score", below=0.5)
SECTION = section_of(
    joint("one", 1, 1.0, 1.0),
    joint("one", 10, 0.9, 2.0),
    joint("one", 100, 0.1, 50.0),
    joint("none", 10, 0.3, 1.0),
    joint("two", 1, 0.8, 20.0),
    joint("two", 10, 0.7, 1.0),
    sequence("one", {10: {0: 0.9, 1: 0.9}, 100: {0: 0.1, 1: 0.1}}),
    sequence("two", {10: {0: 0.9, 1: 0.4}, 100: {0: 0.7, 1: 0.1}}),
)


def test_points_of_one_editor_are_a_curve_per_way_of_editing() -> None:
    curves = curves_of(SECTION, {})
    assert [(curve.label, curve.way) for curve in curves] == [
        ("one", "at once"),
        ("two", "at once"),
        ("one", "one at a time"),
        ("two", "one at a time"),
    ]
    points = curves[0].estimates("m/score")
    assert [(at, estimate.mean) for at, estimate in points] == [
        (1, 1.0), (10, pytest.approx(0.9)), (100, pytest.approx(0.1)),
    ]  # fmt: skip
    [_, (at, ratio)] = curves[2].estimates("perplexity/ratio", geometric=True)
    assert (at, ratio.mean) == (100, pytest.approx(10.0))  # of 1 and 100
    [_, (_, mean)] = curves[2].estimates("perplexity/ratio")
    assert mean.mean == pytest.approx(50.5)


def test_named_values_are_in_labels() -> None:
    section = section_of(joint("one", 1, 1, 1, key="b"), joint("one", 1, 1, 1, key="m"))
    labels = [curve.label for curve in curves_of(section, {"key": {"bare key": "b"}})]
    assert labels == ["one, bare key", "one (key m)"]


def test_endurance_interpolates_and_reports_collapses() -> None:
    table = tables.endurance(ENDURANCE, SECTION, {})
    assert table.head[2] == "M < 50"
    collapsed = "100 (1 of 2 models)"
    assert texts(table) == [
        ["one", "at once", "32", "1", "10.0", "100", "100"],
        ["two", "at once", "> 10", "1", "70.0", "10", "1"],
        ["two", "one at a time", "≤ 10 to > 100", "2", "40.0", "100", collapsed],
        ["one", "one at a time", "32", "2", "10.0", "100", collapsed],
    ]
    at_once = "at once, one (not followed as far: two to 10)"
    assert table.notes[0] == f"Lasts longest: {at_once}; one at a time, two."


def test_editors_that_never_fell_are_tied() -> None:
    both = [joint(name, at, 0.9, 1.0) for name in ("one", "two") for at in (1, 10)]
    notes = tables.endurance(ENDURANCE, section_of(*both), {}).notes
    assert notes[0] == "Lasts longest: at once, one and two (tied at > 10)."


def test_an_interval_of_joint_edits_comes_from_the_band() -> None:
    def models(facts: int, mean: float) -> Series:
        scores = [mean + step / 50 for step in (-2, -1, 0, 1, 2)]
        rows = [
            Row(i, "done", {"m/score": scores[i // facts]}, group=i // facts)
            for i in range(5 * facts)
        ]
        own = State(facts, Sample({0: rows}, shared=True))
        return Series((cell("one", Regime.joint(facts)),), (own,))

    section = section_of(models(10, 0.9), models(100, 0.1))
    bands = [each["m/score"].interval for each in section.estimates]
    assert bands[0][0] < 0.85 < 0.93 < bands[0][1]
    low, high = (
        10 ** (1 + (first - 0.5) / (first - second)) for first, second in zip(*bands, strict=True)
    )
    [[_, _, lasts, *_]] = texts(tables.endurance(ENDURANCE, section, {}))
    assert lasts == f"32 ({low:.0f} to {high:.0f})"


def test_single_edits_are_ranked_by_the_score_of_their_model() -> None:
    spec = TableSpec(name="l", kind="largest", score="perplexity/ratio", top=1)
    table = tables.largest(spec, SECTION, {})
    assert texts(table) == [
        ["one", "case 0", "Rome is in → Peru", "1"],
        ["two", "case 0", "Rome is in → Peru", "20"],
    ]
    assert table.notes[1] == "two: 1 of 1 single edits break the model."


def test_edits_of_a_sequence_are_ranked_by_what_editors_note() -> None:
    spec = TableSpec(name="l", kind="largest", score="note/delta_norm", top=2)
    rome = ["Rome is in → Peru", "1", "2"]
    assert texts(tables.largest(spec, SECTION, {})) == [
        ["one", "one at a time", "case 1", "", "2", "100"],
        ["one", "one at a time", "case 0", *rome],
        ["two", "one at a time", "case 1", "", "2", "100"],
        ["two", "one at a time", "case 0", *rome],
    ]
    steps = FigureSpec(name="f", kind="steps", scores=("note/delta_norm",))
    [panel] = edit_figures.draw_steps(steps, SECTION, {}).axes
    assert list(panel.lines[0].get_ydata())[:3] == [2, 100, 2]


def test_figures_draw_these_numbers(tmp_path: Path) -> None:
    figure = edit_figures.draw_edits(
        FigureSpec(name="f", kind="edits", scores=("m/score",)), SECTION, {}
    )
    once, apart = figure.axes
    assert [list(line.get_ydata()) for line in once.lines[:2]] == [
        pytest.approx([100, 90, 10]),
        pytest.approx([80, 70]),
    ]
    assert once.lines[-1].get_label() == "unedited"
    assert once.get_xscale() == "log"
    assert apart.get_xlabel().endswith("one at a time")
    assert apart.get_ylabel() == "score (%)"
    log = FigureSpec(name="p", kind="edits", log=True, scores=("perplexity/ratio",))
    figure = edit_figures.draw_edits(log, SECTION, {})
    once = figure.axes[0]
    assert list(once.lines[0].get_ydata()) == pytest.approx([1, 2, 50])
    assert list(once.lines[-1].get_ydata()) == [10, 10]  # the collapse threshold
    ranked = FigureSpec(name="r", kind="ranked", scores=("perplexity/ratio",))
    [panel] = edit_figures.draw_ranked(ranked, SECTION, {}).axes
    assert [list(line.get_ydata()) for line in panel.lines[:2]] == [[1.0], [20.0]]


def test_retention_is_by_steps_since_a_fact_was_written() -> None:
    own = state(20, {0: [0.2] * 10 + [0.6] * 9 + [1.0]}, {0: 1.0})
    series = Series((cell("one", Regime.sequential(20, checkpoints=[20])),), (own,))
    spec = FigureSpec(name="f", kind="retention", scores=("m/score",))
    [panel] = edit_figures.draw_retention(spec, section_of(series), {}).axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0", "1-9", "10-99"]
    assert list(panel.lines[0].get_ydata()) == pytest.approx([100, 60, 20])


# ---------------------------------------------------------------- files and small versions


def small(**content: object) -> Benchmark:
    given = {"name": "n", "model": "atlas", "dataset": "atlas", "metrics": ["efficacy"]}
    return validated({**given, "editors": ["rome"], **content}, place="here")


def test_a_limit_cuts_regimes() -> None:
    regimes = [{"joint": 3, "groups": 2}, {"joint": 10}, {"joint": 100},
               {"sequential": 100, "step": 10, "checkpoints": [10, 100]}]  # fmt: skip
    cut, note = within_limit(small(limit=10, edits=regimes))
    assert [regime.to_dict() for regime in cut.edits] == [
        {"joint": 3, "groups": 2},
        {"joint": 10},
        {"sequential": 10, "step": 10, "checkpoints": [10]},
    ]
    assert note == "models get at most 10 facts instead of 100, because limit is 10"
    own = small(limit=5, editors=[{"name": "rome", "edits": {"joint": 100}}])
    assert within_limit(own)[0].editors[0].edits == (Regime.joint(5),)
    same = small(limit=100, edits=regimes)
    assert within_limit(same) == (same, "")


@pytest.mark.parametrize("name", ["mass-editing", "sequential-editing", "disabling-edits"])
def test_smollm2_has_a_version_of_its_own(name: str) -> None:
    experiment = load_experiment(name)
    for model in ("smollm2", "some/folder/smollm2"):
        there = experiment.on(model).to_benchmark(lambda _: 30)
        assert (there.model.name, there.dataset.name) == (model, "smollm2")
        assert max(regime.facts for regime in there.regimes) <= 100
    other = experiment.on("gpt2-xl").to_benchmark(lambda _: 48)
    assert other.dataset.name == "counterfact"
    assert other.regimes == experiment.on(None).to_benchmark(lambda _: 6).regimes


HEAD = "{name: x, summary: s, benchmark: {model: atlas, dataset: atlas, editors: [ft]}, "


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("tables: [{name: t, kind: endurance, score: s/s}]", "below is the level of tables"),
        ("tables: [{name: t, kind: largest, score: s/s, below: 0.5}]", "below is the level"),
        (
            "tables: [{name: t, kind: largest, score: s}, {name: T, kind: largest, score: s}]",
            "two tables would have the same file",
        ),
        ("figures: [{name: f, kind: bars, scores: [s/s], log: true}]", "log is for figures of"),
        ("figures: [{name: f, kind: steps, scores: [s/s]}]", "scores of steps are notes"),
        ("sweep: [{editor: rome, edits: {joint: 0}}]", "joint is 0, expected a whole number"),
    ],
)
def test_wrong_files_name_the_place(rest: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_experiment(f"{HEAD}{rest}}}", place="x.yaml")


MINI = """
name: mini
summary: s
benchmark:
  model: atlas
  dataset: atlas
  limit: 6
  metrics: [efficacy]
  model_metrics: [{name: perplexity, config: {texts: 3}}]
  edits: [{joint: 1, groups: 2}, {joint: 3}]
  editors: [none, ultraedit]
sweep:
  - {editor: ultraedit, edits: {sequential: 6, step: 3}, seeds: [0, 1]}
figures:
  - {name: mini, kind: edits, scores: [efficacy/score]}
  - {name: mini-ppl, kind: edits, log: true, scores: [perplexity/ratio]}
  - {name: mini-age, kind: retention, scores: [efficacy/score]}
  - {name: mini-ranked, kind: ranked, scores: [perplexity/ratio]}
tables:
  - {name: lasts, title: How long it lasts, kind: endurance, score: efficacy/score, below: 0.5}
  - {name: worst, kind: largest, score: perplexity/ratio, top: 1}
"""


@pytest.mark.slow
def test_a_small_experiment_runs_to_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mini.yaml").write_text(MINI, encoding="utf-8")
    command = ["run-experiment", "mini.yaml", "--no-mlflow", "--quiet", "--out", "out"]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "How long it lasts\neditor" in output
    assert "ultraedit: 0 of 2 single edits break the model." in output
    files = {path.name for path in Path("out/figures").iterdir()}
    assert {"mini.png", "mini-ppl.svg", "mini-age.png", "mini-ranked.png", "worst.csv"} <= files
    assert main([*command, "--limit", "2"]) == 0
    assert "at most 2 facts instead of 6" in capsys.readouterr().err
