"""Scores of the unedited model, against those of the published evaluation code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from editkit import EditedModels, load_model
from editkit_plugins.counterfact.config import ChoiceConfig, CounterFactConfig
from editkit_plugins.counterfact.dataset import CounterFactDataset
from editkit_plugins.counterfact.metrics import ChoiceMetric, Efficacy, Neighborhood, Paraphrase
from editkit_plugins.unedited.config import NoEditorConfig
from editkit_plugins.unedited.editor import NoEditor

NLL_TOLERANCE = 2e-5
METRICS: tuple[type[ChoiceMetric], ...] = (Efficacy, Paraphrase, Neighborhood)
LETTERS = {"efficacy": "E", "paraphrase": "P", "neighborhood": "N"}
Row = Mapping[str, Any]


@pytest.fixture(scope="module")
def parity(test_data: Path) -> Path:
    return test_data / "parity"


@pytest.fixture(scope="module")
def rows(parity: Path) -> dict[str, list[Row]]:
    """Rows of each metric on the six shared records."""
    path = parity / "counterfact_scores" / "records.json"
    records = CounterFactDataset(CounterFactConfig(path=path)).load().records
    model = load_model(str(parity / "model"))
    deltas = NoEditor(NoEditorConfig()).edit(model, [record.request for record in records])
    models = EditedModels(model, deltas)
    return {metric.name: metric(ChoiceConfig()).score(models, records) for metric in METRICS}


@pytest.mark.parametrize("metric", METRICS)
def test_nll_of_every_prompt(
    parity: Path, rows: dict[str, list[Row]], metric: type[ChoiceMetric]
) -> None:
    text = (parity / "counterfact_scores" / "scores.json").read_text(encoding="utf-8")
    expected = [case["pre"][f"{metric.kind}_prompts_probs"] for case in json.loads(text)]
    for row, prompts in zip(rows[metric.name], expected, strict=True):
        for answer in ("new", "true"):
            theirs = [prompt[f"target_{answer}"] for prompt in prompts]
            assert row[f"{metric.name}/nll_{answer}"] == pytest.approx(theirs, abs=NLL_TOLERANCE)


@pytest.mark.parametrize("metric", METRICS)
def test_scores_per_case_and_means(
    parity: Path, rows: dict[str, list[Row]], metric: type[ChoiceMetric]
) -> None:
    text = (parity / "counterfact_scores" / "aggregate.json").read_text(encoding="utf-8")
    expected = json.loads(text)
    for ours, theirs, letter in (("score", "success", "S"), ("magnitude", "diff", "M")):
        values = [row[f"{metric.name}/{ours}"] for row in rows[metric.name]]
        per_case = expected["per_case"][f"pre_{metric.kind}_{theirs}"]
        assert values == pytest.approx(per_case, abs=NLL_TOLERANCE)
        mean = expected["mean_unrounded"][f"pre_{LETTERS[metric.name]}{letter}"]
        assert fmean(values) == pytest.approx(mean, abs=NLL_TOLERANCE)
