"""Experiments: every file is sound, one is run, figures come out, bad names are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from editkit.benchmark.spec import ModelChoice
from editkit.cli.main import main
from editkit.plugins import default_registry
from editkit_benchmarks.experiments.spec import known_experiments, load_experiment

ROOT = Path(__file__).resolve().parents[2]


def n_layers(_: ModelChoice) -> int:
    return 6


@pytest.mark.parametrize("name", known_experiments())
def test_every_experiment_names_what_there_is(name: str) -> None:
    experiment = load_experiment(name)
    registry = default_registry()
    for model in (None, "gpt2-xl"):
        benchmark = experiment.on(model).to_benchmark(n_layers)
        assert benchmark.name == name
        declared = {"summary/score"}
        for metric in benchmark.metrics:
            declared |= {score.key for score in registry.get("metric", metric.name).spec.scores}
        for editor in benchmark.editors:
            registry.get("editor", editor.name)
        for figure in experiment.figures:
            if model is None:
                assert set(figure.scores) <= declared


def test_every_experiment_is_documented() -> None:
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in known_experiments())


def test_a_sweep_has_a_line_for_every_combination() -> None:
    benchmark = load_experiment("layer-token-sweep").to_benchmark(n_layers)
    assert len(benchmark.editors) == 1 + 4 * 6


@pytest.mark.parametrize("name", ["knowing-vs-saying", "layer-token-sweep"])
def test_figures_come_out_as_png_and_svg(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    arguments = ["run-experiment", name, "--limit", "2", "--no-mlflow", "--quiet", "--out", "out"]
    assert main(arguments) == 0
    assert "rome" in capsys.readouterr().out
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert {f"{name}.png", f"{name}.svg"} <= figures


@pytest.mark.parametrize(
    ("name", "said"),
    [("layer-sweep", "there is no experiment 'layer-sweep'"), ("x.yaml", "no experiment file")],
)
def test_bad_names_are_told(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run-experiment", name]) == 2
    assert said in capsys.readouterr().err


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run-experiment"]) == 0
    assert "finetuning-sweep" in capsys.readouterr().out
