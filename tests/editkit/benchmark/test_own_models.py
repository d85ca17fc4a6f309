"""Metrics of models for single edits: each record's own model is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from editkit.benchmark.completeness import is_complete
from editkit.benchmark.plan import make_plan
from editkit.benchmark.spec import Flags, apply_flags, load_benchmark
from editkit.benchmark.store import Store, model_rows_of, rows_of, runs_in
from editkit.regimes import INDEPENDENT, Regime
from editkit.registry.plugins import default_registry
from editkit.results import STORE_FILE

Cli = Callable[..., tuple[int, str, str]]
HEALTH = "perplexity,drift,change-norm,distinct-n"
SMALL = ("perplexity.texts=3", "drift.prompts=7", "distinct-n.prompts=2", "distinct-n.tokens=20")
FEW = ("--editor", "none", "--editor", "ft", "--set", "editors.ft.steps=3", "--limit", 2)


@pytest.fixture
def bench(editkit: Cli, tmp_path: Path) -> Callable[..., Any]:
    """Runs the unedited model and few steps of ft; returns the run and the printed table."""

    def run(*arguments: object, out: str = "out") -> Any:
        code, text, err = editkit(
            *("run-benchmark", *FEW, *arguments, "--no-mlflow", "--quiet"),
            *("--out", tmp_path / out),
        )
        assert code == 0, err
        [run] = runs_in(tmp_path / out)
        return run, text

    return run


def sets(under: str, values: tuple[str, ...] = SMALL) -> list[str]:
    return [part for value in values for part in ("--set", f"{under}.{value}")]


def test_each_record_has_the_scores_of_its_own_model(bench: Any) -> None:
    single, table = bench(
        "--metrics", f"efficacy,{HEALTH}", "--wide", *sets("metrics"), out="single"
    )
    shared = ("--joint", 1, "--model-metrics", HEALTH, *sets("model_metrics"))
    joint, _ = bench("--metrics", "efficacy", *shared, out="joint")
    head = next(line for line in table.splitlines() if line.startswith("editor")).split()
    assert head[1:] == [
        *("S", "ES", "EM", "PPL", "PPLx", "Coll", "KL", "KL99", "Top", "dW", "dWt"),
        *("D2", "D3", "Rep", "s/edit", "records"),
    ]
    for cell, same in zip(single.cells, joint.cells, strict=True):
        assert is_complete(single, cell)
        rows = sorted(rows_of(single, cell), key=lambda row: row.case_id)
        assert not any(row.texts for row in rows)
        assert not model_rows_of(single, cell)
        in_groups = sorted(rows_of(joint, same), key=lambda row: row.case_id)
        models = {row.group: row for row in model_rows_of(joint, same)}
        for row, other in zip(rows, in_groups, strict=True):
            model = models[other.group]
            assert row.scores == pytest.approx({**other.scores, **model.scores}, abs=2e-5)
            assert row.details["drift/kl"] == pytest.approx(model.details["drift/kl"], abs=2e-5)
    none, ft = single.cells
    assert {row.scores["drift/kl_mean"] for row in rows_of(single, none)} == {0.0}
    assert len({row.scores["drift/kl_mean"] for row in rows_of(single, ft)}) == 2


def test_a_resumed_run_ends_with_the_same_rows(bench: Any, tmp_path: Path) -> None:
    flags = ("--metrics", "drift,change-norm", "--set", "metrics.drift.prompts=5")
    run, table = bench(*flags, "--set", "batch=1")
    before = [rows_of(run, cell) for cell in run.cells]
    fingerprint, case = run.cells[1].fingerprint, before[1][1].case_id
    with Store(tmp_path / "out" / STORE_FILE) as store:
        store.discard(fingerprint, [case])
    run, again = bench(*flags, "--set", "batch=1")
    after = [rows_of(run, cell) for cell in run.cells]
    assert [[(row.case_id, row.scores, row.details) for row in rows] for rows in after] == [
        [(row.case_id, row.scores, row.details) for row in rows] for rows in before
    ]
    assert [row.completed_at for row in after[1]] != [row.completed_at for row in before[1]]
    assert table.split("s/edit")[0] == again.split("s/edit")[0]


def test_where_a_metric_is_named_decides_what_a_cell_depends_on() -> None:
    registry = default_registry()
    benchmark, _ = load_benchmark("atlas", registry)

    def of(metrics: str, of_models: str, *edits: Regime) -> list[str]:
        flags = Flags(
            editors=["none"],
            limit=2,
            edits=edits or [INDEPENDENT],
            metrics=metrics.split(),
            model_metrics=of_models.split(),
        )
        plan = make_plan(apply_flags(benchmark, flags)[0], registry)
        return [planned.cell.fingerprint for planned in plan.cells]

    joint = Regime("joint", 1)
    wanted = of("efficacy", "perplexity drift", joint)
    assert wanted == of("efficacy drift", "perplexity", joint)
    assert wanted == of("efficacy drift", "perplexity drift", joint)
    assert wanted != of("efficacy", "perplexity", joint)
    assert of("efficacy drift", "perplexity") != of("efficacy", "perplexity")
    both = of("efficacy", "perplexity drift", INDEPENDENT, joint)
    assert both == [*of("efficacy", "drift"), *wanted]


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (
            ("--metrics", "drift,perplexity", "--joint", 2),
            "edits is joint 2, but metrics has only metrics of whole models: drift, perplexity",
        ),
        (
            ("--metrics", "efficacy,drift", "--joint", 1, "--set", "metrics.drift.prompts=3"),
            "model_metrics.1: 'drift' is also under metrics, with other values",
        ),
        (("--metrics", "efficacy", "--model-metrics", "drift"), "Name them under --metrics"),
        (
            ("--metrics", "efficacy", "--set", "metrics.drift.prompts=3"),
            "Write --set model_metrics.drift.prompts",
        ),
        (("--metrics", "efficacy,perplexty"), "'perplexity'"),
    ],
)
def test_mistakes_stop_the_run_with_a_reason(
    editkit: Cli, tmp_path: Path, flags: tuple[object, ...], part: str
) -> None:
    code, _, err = editkit("run-benchmark", *FEW, *flags, "--out", tmp_path, "--no-mlflow")
    assert code in (2, 3)  # wrong configuration, or unknown plugin
    assert part in " ".join(err.split())


def test_a_metric_of_records_wins_over_a_metric_of_models_with_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = default_registry()
    benchmark, _ = load_benchmark("atlas", registry)
    flags = Flags(editors=["none"], limit=2, metrics=["drift"], model_metrics=["drift"])
    changed = apply_flags(benchmark, flags)[0]
    [metric] = make_plan(changed, registry).metrics
    assert metric.of_models
    efficacy = registry.get("metric", "efficacy")
    other = dataclasses.replace(efficacy, spec=dataclasses.replace(efficacy.spec, name="drift"))
    offers = type(registry).offers
    monkeypatch.setattr(
        type(registry),
        "offers",
        lambda self, kind=None: [*offers(self, kind), *([other] if kind == "metric" else [])],
    )
    plan = make_plan(changed, registry)
    assert [metric.of_models for metric in plan.metrics] == [False]
    assert [metric.of_models for metric in plan.model_metrics] == [True]
