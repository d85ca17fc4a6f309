"""The published tables that we ship, and what our rules for clear failures make of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from editkit.benchmark.aggregate import Estimate, harmonic_mean
from editkit.benchmark.published import Published, published_for
from editkit.registry.plugins import default_registry
from editkit.report.sections import is_failure
from editkit.results import Run
from editkit_plugins.counterfact import editkit_metrics

METRICS = editkit_metrics()
SCORES = tuple(score for metric in METRICS for score in metric.scores)
RUN = Run(
    out=Path("out"),
    benchmark="counterfact",
    model={"name": "openai-community/gpt2-xl", "fingerprint": "f", "dtype": "float32"},
    dataset={"name": "counterfact", "digest": "d", "n_records": 1},
    metrics=tuple({"name": metric.name, "protocol": metric.protocol} for metric in METRICS),
    scores=SCORES,
    seeds=(0,),
    cells=(),
    batch=1,
)
FAILURES = {
    "openai-community/gpt2-xl": {
        "ft": "NS NM", "ft+l": "PS PM", "kn": "PS PM", "ke": "NS NM", "ke-cf": "NS NM",
        "mend": "PS PM NS NM", "mend-cf": "NS NM", "rome": "",
    },
    "EleutherAI/gpt-j-6B": {"ft": "NS NM", "ft+l": "PS PM", "mend": "PS PM NS NM", "rome": ""},
}  # fmt: skip


def published(model: str) -> Published:
    run = dataclasses.replace(RUN, model={**RUN.model, "name": model})
    [table] = published_for(run, default_registry())
    return table


@pytest.mark.parametrize("model", FAILURES)
def test_the_rules_mark_the_clear_failures_of_the_papers(model: str) -> None:
    rows = {
        editor: {key: Estimate(mean, mean, mean, 0) for key, mean in row.items()}
        for editor, row in published(model).rows.items()
    }
    failures = {
        editor: " ".join(score.label for score in SCORES if is_failure(score, row, rows["none"]))
        for editor, row in rows.items()
        if editor != "none"
    }
    assert failures == FAILURES[model]


@pytest.mark.parametrize("model", FAILURES)
def test_published_summaries_are_the_harmonic_means_of_their_rows(model: str) -> None:
    for editor, row in published(model).rows.items():
        parts = [row[score.key] for score in SCORES if score.summary]
        # Rows are printed with one digit.
        assert row["summary/score"] == pytest.approx(harmonic_mean(parts), abs=0.0015), editor


def test_columns_that_a_run_does_not_measure_are_left_out() -> None:
    assert "fluency/entropy" not in published("gpt2-xl").rows["rome"]
    metrics = (*RUN.metrics, {"name": "fluency", "protocol": "counterfact/ngram-entropy/x/v1"})
    run = dataclasses.replace(RUN, metrics=metrics)
    [table] = published_for(run, default_registry())
    assert table.rows["rome"]["fluency/entropy"] == pytest.approx(6.219)


def test_smaller_models_have_their_summary_only() -> None:
    assert published("gpt2-medium").rows["rome"] == {"summary/score": pytest.approx(0.874)}


def test_zsre_is_published_for_one_model() -> None:
    metrics = ({"name": "zsre", "protocol": "zsre/teacher-forced-argmax/v1"},)
    run = dataclasses.replace(RUN, dataset={**RUN.dataset, "name": "zsre"}, metrics=metrics)
    [table] = published_for(run, default_registry())
    assert table.n_records == 10000
    assert table.rows["rome"] == {
        "zsre/efficacy": pytest.approx(0.998),
        "zsre/paraphrase": pytest.approx(0.881),
        "zsre/specificity": pytest.approx(0.242),
    }


def test_a_folder_with_the_name_of_a_published_model_is_not_that_model() -> None:
    """The name of a local model is that of its folder."""
    for n_parameters, n_tables in [(1_557_611_200, 1), (1_557_612_800, 1), (1_590_272, 0)]:
        model = {**RUN.model, "name": "gpt2-xl", "n_parameters": n_parameters}
        run = dataclasses.replace(RUN, model=model)
        assert len(published_for(run, default_registry())) == n_tables
