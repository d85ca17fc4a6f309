from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import pytest
from counterfact_samples import raw_record

from editkit import EditedModels, MetricSpec, Record
from editkit.editing.edited_models import CandidateQuery, CandidateScore
from editkit.records.reading import Node
from editkit_plugins import counterfact
from editkit_plugins.counterfact import metrics
from editkit_plugins.counterfact.config import ChoiceConfig
from editkit_plugins.counterfact.dataset import parse_record
from editkit_plugins.counterfact.metrics import (
    Attribute,
    ChoiceMetric,
    Correctness,
    Efficacy,
    Neighborhood,
    Paraphrase,
    SameSubject,
)


@dataclasses.dataclass
class ToldModels:
    """Models that say what they are told: NLL by (edited, prompt, candidate)."""

    output: dict[tuple[bool, str, str], float]
    default: float = 1.0
    edited: bool = True

    def unedited(self) -> ToldModels:
        return dataclasses.replace(self, edited=False)

    def candidate_scores(self, queries: Sequence[CandidateQuery]) -> list[list[CandidateScore]]:
        """One that is told to be likely is what the model would write."""
        return [
            [CandidateScore(nll, 1.0 if nll < 0.5 else 0.5) for nll in row]
            for row in self.candidate_nll(queries)
        ]

    def candidate_nll(self, queries: Sequence[CandidateQuery]) -> list[list[float]]:
        return [
            [self.output.get((self.edited, q.prompt, c), self.default) for c in q.candidates]
            for q in queries
        ]


def score(metric: type[ChoiceMetric], models: ToldModels, *records: Record) -> list[Any]:
    return list(metric(ChoiceConfig()).score(cast(EditedModels, models), records))


RECORD = parse_record(Node(raw_record()))
REWRITE = "the Fish Market stands in"
NEIGHBOR = "The Fløibanen runs in"
OTHER = "the Fish Market opened in the year"


def test_efficacy_rewards_the_new_object() -> None:
    output = {(True, REWRITE, "Oslo"): 0.5, (True, REWRITE, "Bergen"): 2.0}
    (row,) = score(Efficacy, ToldModels(output), RECORD)
    assert row["efficacy/score"] == 1.0
    assert row["efficacy/magnitude"] == pytest.approx(math.exp(-0.5) - math.exp(-2.0))
    assert (row["efficacy/nll_new"], row["efficacy/nll_true"]) == ([0.5], [2.0])


def test_paraphrase_averages_over_prompts() -> None:
    first = RECORD.probes["paraphrase"][0].prompt
    (row,) = score(Paraphrase, ToldModels({(True, first, "Oslo"): 0.2}), RECORD)
    assert row["paraphrase/score"] == 0.5
    assert row["paraphrase/magnitude"] == pytest.approx((math.exp(-0.2) - math.exp(-1.0)) / 2)
    assert row["paraphrase/nll_new"] == [0.2, 1.0]


def test_neighborhood_rewards_the_true_object() -> None:
    (row,) = score(Neighborhood, ToldModels({(True, NEIGHBOR, "Bergen"): 0.1}), RECORD)
    assert row["neighborhood/score"] == 1.0
    assert row["neighborhood/magnitude"] == pytest.approx(math.exp(-0.1) - math.exp(-1.0))


@pytest.mark.parametrize("metric", [Efficacy, Paraphrase, Neighborhood, SameSubject])
def test_a_tie_is_not_a_success(metric: type[ChoiceMetric]) -> None:
    (row,) = score(metric, ToldModels({}), RECORD)
    assert row[f"{metric.prefix}/score"] == 0.0


def test_same_subject_drift_is_the_change_of_probability() -> None:
    output = {(False, OTHER, "1276"): 0.1, (True, OTHER, "1276"): 0.7}
    (row,) = score(SameSubject, ToldModels(output), RECORD)
    assert row["same_subject/score"] == 1.0
    assert row["same_subject/drift"] == pytest.approx(math.exp(-0.7) - math.exp(-0.1))
    assert row["same_subject/drift"] < 0
    assert "same_subject/magnitude" not in row


def test_attribute_rewards_the_new_object_for_other_subjects() -> None:
    prompt = RECORD.probes["attribute"][0].prompt
    (row,) = score(Attribute, ToldModels({(True, prompt, "Oslo"): 0.1}), RECORD)
    assert row["attribute/score"] == 1.0
    assert row["attribute/magnitude"] == pytest.approx(math.exp(-0.1) - math.exp(-1.0))


def test_correctness_requires_the_argmax_at_every_token() -> None:
    first = RECORD.probes["paraphrase"][0].prompt
    output = {
        (True, REWRITE, "Oslo"): 0.1,
        (True, first, "Oslo"): 0.1,
        (True, NEIGHBOR, "Oslo"): 0.1,  # the new object where the true one is wanted
    }
    bare = Record(9, RECORD.request)
    row, nothing = Correctness(ChoiceConfig()).score(
        cast(EditedModels, ToldModels(output)), [RECORD, bare]
    )
    assert row == {
        "correctness/rewrite": 1.0,
        "correctness/paraphrase": 0.5,
        "correctness/neighborhood": 0.0,
        "correctness/attribute": 0.0,
    }
    assert nothing == {}


@pytest.mark.parametrize("metric", [Paraphrase, Neighborhood, SameSubject])
def test_a_record_without_prompts_of_the_kind_has_no_score(metric: type[ChoiceMetric]) -> None:
    nothing = {"paraphrase_prompts": [], "neighborhood_prompts": [], "same_subject_prompts": None}
    bare = parse_record(Node(raw_record(8) | nothing))
    without, with_prompts = score(metric, ToldModels({}), bare, RECORD)
    assert without == {}
    assert with_prompts


def test_nan_is_not_mistaken_for_a_score() -> None:
    (row,) = score(Efficacy, ToldModels({(True, REWRITE, "Oslo"): math.nan}), RECORD)
    assert math.isnan(row["efficacy/magnitude"])


@pytest.mark.parametrize("spec", counterfact.editkit_metrics(), ids=lambda spec: spec.name)
def test_specs_declare_the_scores_that_the_metrics_return(spec: MetricSpec) -> None:
    metric = getattr(metrics, spec.factory.partition(":")[2])
    (row,) = score(metric, ToldModels({}), RECORD)
    assert {key for key, value in row.items() if isinstance(value, float)} == {
        announced.key for announced in spec.scores
    }


def test_table_columns_and_the_summary() -> None:
    scores = [score for spec in counterfact.editkit_metrics() for score in spec.scores]
    assert [s.label for s in scores if s.label] == [
        *("ES", "EM", "PS", "PM", "NS", "NM", "AS", "AM", "SS", "SD")
    ]
    assert [s.label for s in scores if s.summary] == ["ES", "PS", "NS"]
