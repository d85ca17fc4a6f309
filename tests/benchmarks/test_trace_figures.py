"""Figures of traces: bars of severed effects, and maps of single facts and of averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.container import BarContainer

from editkit import Fact, Localization
from editkit.benchmark.aggregate import Estimate
from editkit.cli.main import main
from editkit.errors import ConfigError
from editkit.tracing.trace import Trace
from editkit_benchmarks.experiments.figures import draw_traces
from editkit_benchmarks.experiments.spec import FigureSpec, load_experiment, parse_experiment
from editkit_benchmarks.experiments.tracing import ExampleTrace, Traces, tools_by_setting
from editkit_plugins.tracing.averages import AverageTrace

ROLES = ("last subject token", "last token")


def average(setting: str, tops: dict[str, float], *, corrupted: bool = True) -> AverageTrace:
    effects = {
        kind: {
            role: [Estimate(top / 2, None, None, 1), Estimate(top, None, None, 1)] for role in ROLES
        }
        for kind, top in tops.items()
    }
    baselines = {"corrupted": Estimate(0.1, None, None, 1)} if corrupted else {}
    locator = "causal-tracing" if corrupted else "saliency"
    return AverageTrace(
        "atlas", locator, "atlas", setting, "", effects, {}, baselines, 7, 0, {}, 0.0
    )


def example(number: int, setting: str, top: float, **values: Any) -> ExampleTrace:
    given = {"baselines": {"clean": 0.9, "corrupted": 0.1}, "subject": (0, 1), **values}
    fact = Fact("Kenya is in", "Kenya", "Africa")
    maps = Localization(fact, ("Kenya", " is"), "state", ((top, 0.0), (0.0, 0.1)), **given)
    return ExampleTrace(number, setting, Trace("atlas", "causal-tracing", (maps,)))


def spec(kind: str, **values: Any) -> FigureSpec:
    return FigureSpec.model_validate({"name": "f", "kind": kind, **values})


def test_bars_have_a_group_of_kinds_for_each_layer_and_a_panel_for_each_role() -> None:
    tops = {"state": 0.4, "state-mlp-severed": 0.2, "state-both-severed": 0.1}
    averages = [average("", tops)]
    kinds = ("state", "state-mlp-severed")
    figure = draw_traces(spec("effect-bars", kinds=kinds), Traces(averages))
    assert [panel.get_title("left")[4:] for panel in figure.axes] == [f"at the {r}" for r in ROLES]
    state, severed = (c for c in figure.axes[0].containers if isinstance(c, BarContainer))
    assert [bar.get_height() for bar in state] == [0.2, 0.4]
    assert [bar.get_height() for bar in severed] == [0.1, 0.2]
    assert state[0].get_x() + state[0].get_width() == pytest.approx(severed[0].get_x())
    assert state[0].get_hatch() != severed[0].get_hatch()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["single state restored", "state restored, MLP severed"]


def limits(figure: Any) -> list[tuple[float, float]]:
    maps = [panel for panel in figure.axes if panel.get_label() != "<colorbar>"]
    maps = [panel for panel in maps if panel.get_visible()]
    return [panel.collections[0].get_clim() for panel in maps]


def test_maps_of_averages_share_a_scale_among_equal_units() -> None:
    averages = [
        average("weak", {"state": 0.2}),
        average("strong", {"state": 0.6}),
        average("gradient", {"state": 9.0}, corrupted=False),
    ]
    figure = draw_traces(spec("average-maps"), Traces(averages))
    assert limits(figure) == [(0.0, 0.6), (0.0, 0.6), (0.0, 9.0)]
    bars = [panel.get_ylabel() for panel in figure.axes if panel.get_label() == "<colorbar>"]
    assert bars == [*["average indirect effect\n(same scale)"] * 2, "saliency score"]


def test_maps_of_facts_have_a_row_per_example_with_a_scale_of_its_own() -> None:
    examples = [example(0, "a", 0.3), example(0, "b", 0.5), example(1, "a", 0.2)]
    figure = draw_traces(spec("fact-maps", title="Facts"), Traces(examples=examples))
    assert limits(figure)[:2] == [pytest.approx((0.1, 0.6))] * 2
    assert limits(figure)[2] == pytest.approx((0.1, 0.3))
    first, second = figure.axes[0], figure.axes[1]
    assert [label.get_text() for label in first.get_yticklabels()] == ["Kenya*", "is"]
    assert [label.get_text() for label in second.get_yticklabels()] == ["", ""]
    assert (first.get_title(), second.get_title()) == ("a", "b")
    assert figure.get_suptitle() == "Facts, on atlas"


def test_a_setting_may_name_another_locator_which_has_its_own_values() -> None:
    tracing = load_experiment("gradients-and-tracing").tracing
    assert tracing is not None
    tools = dict(tools_by_setting(tracing, {"samples": 3}))
    assert tools["causal tracing"].locator_name == "causal-tracing"
    assert tools["causal tracing"].values["kinds"] == ["state"]
    assert tools["causal tracing"].values["samples"] == 3
    assert tools["saliency"].locator_name == "saliency"
    assert tools["saliency"].values == {}


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ("{name: f, kind: effects}", "'f' would overlay scores of different locators"),
        ("{name: f, kind: fact-maps}", "shows examples, expected some in tracing"),
        ("{name: f, kind: effect-bars, scores: [a]}", "effect-bars has 1 scores, expected none"),
        ("{name: f, kind: bars, scores: [a], kinds: [mlp]}", "kinds are for figures of effects"),
    ],
)
def test_figures_that_cannot_be_drawn_are_refused(figure: str, message: str) -> None:
    tracing = "{settings: {a: {}, b: {locator: saliency}}}"
    benchmark = "{model: atlas, dataset: atlas, editors: [ft]}"
    content = (
        f"{{name: n, summary: s, benchmark: {benchmark}, tracing: {tracing}, figures: [{figure}]}}"
    )
    with pytest.raises(ConfigError, match=message):
        parse_experiment(content, place="x.yaml")


@pytest.mark.slow
def test_locators_and_subjects_are_compared_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--limit", "1", "--no-mlflow", "--quiet", "--out", "out"]
    samples = ["--set", "tracing.config.samples=1"]
    assert main(["run-experiment", "gradients-and-tracing", *flags, *samples]) == 0
    assert main(["run-experiment", "subject-substitution", "--limit", "4", *flags[2:]]) == 0
    names = {path.name for path in Path("out/figures").iterdir()}
    for name in ("gradients-and-tracing", "subject-substitution"):
        assert {f"{name}-facts.pdf", f"{name}-averages.pdf"} <= names
    assert "saliency on atlas, saliency: 1 facts of atlas" in capsys.readouterr().out
