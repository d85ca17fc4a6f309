"""Every answer's token before and after the edits of ``parity/rome``, against ``parity/zsre``."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import pytest

from editkit import EditedModels, Record, make_dataset, make_metric
from editkit.benchmark.aggregate import summary_score
from editkit_plugins.rome.editor import RomeEditor
from tests.parity import Parity
from tests.plugins.rome.test_rome_parity import PinnedRome, config, pinned_statistic

NAMES = {"efficacy": "rewrite", "paraphrase": "paraphrase", "specificity": "neighborhood"}


@pytest.fixture(scope="module")
def records(parity: Parity) -> tuple[Record, ...]:
    loaded = make_dataset("zsre", path=parity.folder / "zsre/raw_records.json").load()
    assert loaded.rejected == ()
    return loaded.records


@pytest.fixture(scope="module")
def edited(parity: Parity, records: tuple[Record, ...]) -> EditedModels:
    statistic, ridge = pinned_statistic(parity)
    editor: RomeEditor = PinnedRome(config(parity, ridge=ridge), statistic)
    deltas = editor.edit(parity.model, [record.request for record in records])
    return EditedModels(parity.model, deltas)


@pytest.fixture(scope="module", params=["pre", "post"])
def scored(
    request: pytest.FixtureRequest, edited: EditedModels, records: tuple[Record, ...]
) -> tuple[str, list[Mapping[str, Any]]]:
    models = edited if request.param == "post" else edited.unedited()
    return request.param, list(make_metric("zsre").score(models, records))


def test_records_are_built_as_published(parity: Parity, records: tuple[Record, ...]) -> None:
    for record, case in zip(records, parity.json("zsre/scores.json")["cases"], strict=True):
        built = case["record"]
        rewrite = built["requested_rewrite"]
        assert record.request.prompt == rewrite["prompt"]
        assert record.request.subject == rewrite["subject"]
        assert record.request.target_new == rewrite["target_new"]["str"]
        assert record.probes["rewrite"][0].target_true == rewrite["target_true"]["str"]
        assert [p.prompt for p in record.probes["paraphrase"]] == built["paraphrase_prompts"]
        unrelated = record.probes["neighborhood"][0]
        assert unrelated.prompt == built["neighborhood_prompts"][0]["prompt"]


def test_every_token(parity: Parity, scored: tuple[str, list[Mapping[str, Any]]]) -> None:
    moment, rows = scored
    for row, case in zip(rows, parity.json("zsre/scores.json")["cases"], strict=True):
        for ours, theirs in NAMES.items():
            expected = case[moment][f"{theirs}_prompts_correct"]
            assert row[f"zsre/{ours}_hits"] == [float(hit) for hit in expected], (ours, case)


def test_accuracies_and_means(parity: Parity, scored: tuple[str, list[Mapping[str, Any]]]) -> None:
    moment, rows = scored
    expected = parity.json("zsre/scores.json")
    for ours, theirs in NAMES.items():
        values = [row[f"zsre/{ours}"] for row in rows]
        assert values == expected["per_case"][f"{moment}_{theirs}_acc"]
        assert fmean(values) == expected["mean_unrounded"][f"{moment}_{theirs}_acc"]


def test_the_summary_is_the_published_one(
    parity: Parity, scored: tuple[str, list[Mapping[str, Any]]]
) -> None:
    moment, rows = scored
    expected = parity.json("zsre/scores.json")["reference_rounded_percent_mean_std"]
    columns = [[row[f"zsre/{score}"] for row in rows] for score in NAMES]
    result = summary_score(columns).mean
    assert 100 * result == pytest.approx(expected[f"{moment}_score"][0], abs=0.05)


def test_forcing_tokens_agrees_if_answers_tokenise_identically(
    parity: Parity, edited: EditedModels, records: tuple[Record, ...]
) -> None:
    published = make_metric("zsre").score(edited, records)
    tokens = make_metric("zsre", forcing="tokens").score(edited, records)
    assert tokens == published
