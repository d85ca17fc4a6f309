"""Experiments: their files, traces and figures, and the errors of wrong ones."""

from __future__ import annotations

import re
from pathlib import Path

import pandas
import pytest
import yaml
from matplotlib.figure import Figure

from editkit import ConfigError, Score
from editkit.benchmark.spec import ModelChoice
from editkit.cli.main import main
from editkit.registry.plugins import default_registry
from editkit.storage.resources import resource_text
from editkit_benchmarks.experiments.score_figures import scale_to_percent
from editkit_benchmarks.experiments.spec import (
    known_experiments,
    load_experiment,
    parse_experiment,
)
from editkit_plugins.tracing import bench
from tests.slow_cases import by_default

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Second moments are estimated once for all experiments."""
    return tmp_path_factory.mktemp("cache")


def n_layers(_: ModelChoice) -> int:
    return 6


@pytest.mark.parametrize("name", known_experiments())
def test_experiments_name_known_editors_metrics_and_scores(name: str) -> None:
    experiment = load_experiment(name)
    registry = default_registry()
    for model in (None, "gpt2-xl", "smollm2"):
        benchmark = experiment.on(model).to_benchmark(n_layers)
        assert benchmark.name == name
        declared = {"summary/score"}
        for metric in benchmark.metrics:
            declared |= {score.key for score in registry.get("metric", metric.name).spec.scores}
        for metric in benchmark.model_metrics:
            spec = registry.get("model_metric", metric.name).spec
            declared |= {score.key for score in spec.scores}
        for editor in benchmark.editors:
            registry.get("editor", editor.name)
        if model is None:
            for figure in experiment.figures:
                assert {key for key in figure.scores if not key.startswith("note/")} <= declared
            keys = {table.score for table in experiment.tables}
            assert {key for key in keys if not key.startswith("note/")} <= declared


def test_every_experiment_is_documented() -> None:
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in known_experiments())


def test_a_sweep_has_an_editor_per_combination() -> None:
    benchmark = load_experiment("layer-token-sweep").to_benchmark(n_layers)
    assert len(benchmark.editors) == 1 + 4 * 6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prefix-ablation", "layer-token-sweep"])
@pytest.mark.usefixtures("elsewhere")
def test_figures_are_written(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run-experiment", name, "--limit", "2", "--no-mlflow", "--quiet", "--out", "out"]
    assert main(arguments) == 0
    assert "rome" in capsys.readouterr().out
    assert {f"{name}.png", f"{name}.svg"} <= figures()


def experiment(*arguments: str) -> int:
    flags = ("--no-mlflow", "--quiet", "--out", "out", "--set", "tracing.config.samples=2")
    kinds = (
        "--set",
        "tracing.config.kinds=[mlp]",
    )  # drawing the maps of all takes most of the time
    return main(["run-experiment", *arguments, *flags, *kinds])


def figures() -> set[str]:
    return {path.name for path in Path("out/figures").iterdir()}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITKIT_CACHE", str(cache))


@pytest.mark.slow
@pytest.mark.usefixtures("elsewhere")
def test_settings_of_traces_are_drawn_together(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = "{weak: {noise_multiple: 1}, other: {corruption: substitute}, plain: {}}"
    arguments = ["noise-robustness", "--limit", "2", "--set", f"tracing.settings={settings}"]
    assert experiment(*arguments) == 0
    output, warnings = capsys.readouterr()
    assert "causal-tracing on atlas, weak: 1 facts of atlas; left out: 1 unknown" in output
    assert (
        "none of the 2 facts of atlas (other) could be traced on atlas: 1 are unknown" in warnings
    )
    assert {"noise-robustness.png", "noise-robustness-plain.csv"} <= figures()
    monkeypatch.setattr(bench, "_trace", None)  # everything is in the store
    assert experiment(*arguments) == 0
    assert capsys.readouterr().out == output


@pytest.mark.slow
@pytest.mark.usefixtures("elsewhere")
def test_new_facts_are_traced_after_their_edits(capsys: pytest.CaptureFixture[str]) -> None:
    assert experiment("knowing-vs-saying", "--limit", "3", "--metrics", "efficacy") == 0
    output = capsys.readouterr().out
    assert "atlas, before the edit" in output
    assert "atlas, after rome: 3 facts of atlas; left out: 0 unknown" in output
    tables = {
        name: pandas.read_csv(f"out/figures/knowing-vs-saying-{name}.csv")
        .set_index(["kind", "role", "layer"])["mean"]
        .loc[("mlp", "last subject token", 0)]
        for name in ("before-the-edit", "after-rome")
    }
    assert tables["after-rome"] > tables["before-the-edit"] + 0.05  # what ROME writes is read there


@pytest.mark.slow
@pytest.mark.usefixtures("elsewhere")
def test_every_cell_of_a_sweep_is_traced_after_its_own_edits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("mine.yaml").write_text(
        """{name: mine, summary: s, benchmark: {model: atlas, dataset: atlas, limit: 2, metrics:
        [efficacy]}, sweep: [{editor: ft, grid: {layer: [0, 1]}}], tracing: {after: [ft]}}""",
        encoding="utf-8",
    )
    assert experiment("mine.yaml") == 0
    output = capsys.readouterr().out
    assert "after ft (layer 0): " in output
    assert "after ft (layer 1): " in output
    assert experiment("mine.yaml", "--set", "tracing.after=['ft (layer 1)']") == 0
    assert "after ft (layer 0): " not in capsys.readouterr().out


SMALL = """{name: %s, summary: s, benchmark: {model: atlas, dataset: atlas, editors: [ft]},
    figures: [{name: %s, kind: bars, scores: [efficacy/score]}]}"""


@pytest.mark.parametrize(
    "name", ["../x", "/tmp/x", "a/b", "..", '""', '"a\\0b"', "nul", "x.", '"x "', "y" * 300]
)
@pytest.mark.usefixtures("elsewhere")
def test_names_cannot_leave_the_output_folder(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for names in ((name, "f"), ("mine", name)):
        Path("mine.yaml").write_text(SMALL % names, encoding="utf-8")
        assert main(["run-experiment", "mine.yaml", "--no-mlflow", "--quiet"]) == 2
        assert "name: got" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]


def test_figures_with_the_same_files_are_refused() -> None:
    content = """{name: n, summary: s, benchmark: {model: atlas, dataset: atlas, editors: [ft]},
    figures: [{name: Fig, kind: bars, scores: [a]}, {name: fig, kind: bars, scores: [a]}]}"""
    with pytest.raises(ConfigError, match="'Fig' and 'fig' would have the same files"):
        parse_experiment(content, place="x.yaml")


@pytest.mark.usefixtures("elsewhere")
def test_settings_and_figures_have_their_own_files() -> None:
    Path("mine.yaml").write_text(
        """{name: mine, summary: s, benchmark: {model: atlas, dataset: atlas, limit: 2},
        tracing: {config: {kinds: [state]}, settings: {"../a": {}, A: {}, a: {}}},
        figures: [{name: mine-A-maps, kind: effects}]}""",
        encoding="utf-8",
    )
    assert experiment("mine.yaml") == 0
    tables = {name.casefold() for name in figures() if name.endswith(".csv")}
    assert len(tables) == 3
    assert "mine-A-maps.png" in figures()
    assert {path.name for path in Path().iterdir()} == {"mine.yaml", "out"}


@pytest.mark.usefixtures("elsewhere")
def test_an_unknown_score_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(
        """{name: mine, summary: s, benchmark: {model: atlas, dataset: atlas, editors: [ft]},
        figures: [{name: f, kind: bars, scores: [efficacy/scor]}]}""",
        encoding="utf-8",
    )
    assert main(["run-experiment", "mine.yaml", "--no-mlflow", "--quiet"]) == 2
    output = capsys.readouterr().err
    assert "'efficacy/scor', which no installed metric reports" in output
    assert "Did you mean 'efficacy/score'?" in output


def documented() -> list[str]:
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    return re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "text",
    by_default(documented(), documented()[-1]),
    ids=lambda text: text.split()[1],
)
def test_the_documented_examples_run(text: str) -> None:
    few = text.replace("layer: every ", "layer: [0] ")  # other layers need more second moments
    Path("mine.yaml").write_text(few, encoding="utf-8")
    arguments = ["run-experiment", "mine.yaml", "--limit", "1", "--quiet", "--out", "out"]
    if "\ntracing:" in text:
        arguments += ["--set", "tracing.config.kinds=[state, mlp]"]
    assert main(arguments) == 0
    name = yaml.safe_load(text)["figures"][0]["name"]
    assert {f"{name}.png", f"{name}.svg"} <= figures()


@pytest.mark.usefixtures("elsewhere")
def test_effects_beside_a_score(capsys: pytest.CaptureFixture[str]) -> None:
    text = resource_text("editkit_benchmarks:experiments/where-to-edit.yaml", owner="the test")
    assert "grid: {layer: every}" in text
    Path("where-to-edit.yaml").write_text(
        text.replace("every}", "[0, 5]}\n    config: {corpus_tokens: 5000}"), encoding="utf-8"
    )
    assert experiment("where-to-edit.yaml", "--limit", "2") == 0
    assert {"where-to-edit.png", "where-to-edit.svg", "where-to-edit-maps.png"} <= figures()
    assert "rome (layer 5)" in capsys.readouterr().out


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["noise-robustness", "--set", "tracing.samples=2"], "tracing: samples: unknown field"),
        (["noise-robustness", "--set", "tracing.config.windo=2"], "Did you mean 'window'?"),
        (["noise-robustness", "--set", "tracing.facts=absent.json"], "absent.json"),
        (["knowing-vs-saying", "--set", "tracing.after=[ft]"], "'ft', which is not an editor of"),
        (["noise-robustness", "--set", "tracing.setings={}"], "Did you mean 'settings'?"),
        (["counterfact"], "has no section 'tracing'"),
        (["noise-robustness", "--set", "tracing.limit"], "expected a.b=value"),
    ],
)
def test_a_wrong_tracing_section_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment(*arguments, "--limit", "2") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("value", "whole"), [(70.0, True), (620.0, False), (35.0, False)])
def test_percentages_have_one_scale_unless_a_value_exceeds_it(value: float, *, whole: bool) -> None:
    panel = Figure().subplots()
    panel.plot([0, 1], [value, value])
    scale_to_percent(panel, Score("fluency/entropy", "GE"))
    low, high = panel.get_ylim()
    assert low < value < high
    assert ((low, high) == (-2, 102)) is whole


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ("kind: bars", "bars has 0 scores, expected at least one"),
        ("kind: effects, scores: [summary/score]", "effects has 1 scores, expected none"),
        ("kind: lines, scores: [a/b]", "lines need x"),
        ("kind: bars, scores: [a/b]", "shows scores, expected editors or a sweep"),
        ("kind: effects", "shows traces, expected a section 'tracing'"),
        ("kind: effects, roles: [lst token]", "got role 'lst token'"),
        ("kind: effects, series: role", "series of effects is 'role', expected setting or kind"),
        ("kind: effects-and-score", "effects-and-score has 0 scores, expected one"),
    ],
)
def test_figures_are_checked_against_their_kind(figure: str, message: str) -> None:
    text = f"{{name: x, summary: y, benchmark: {{model: atlas}}, figures: [{{name: f, {figure}}}]}}"
    with pytest.raises(ConfigError, match=message):
        parse_experiment(text, place="x.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layer-sweep", "no experiment is called 'layer-sweep'"),
        ("x.yaml", "the experiment file 'x.yaml' does not exist"),
    ],
)
def test_unknown_experiments_are_refused(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run-experiment", name]) == 2
    assert message in capsys.readouterr().err


def test_the_list_of_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run-experiment"]) == 0
    assert "finetuning-sweep" in capsys.readouterr().out
