"""The scores equal the published definition, computed one text after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pytest
import torch

from editkit import Consequence, EditedModels, OpenQuestion, Probe, Record, applied, make_metric
from editkit.testing.samples import RECORDS, random_edits
from tests.plugins.knowedit.knowedit_samples import WITH_QUESTIONS
from tests.tiny import tiny


@pytest.fixture(scope="module")
def models() -> EditedModels:
    model = tiny(context_length=128)
    return EditedModels(model, random_edits(model, RECORDS))


def naive(
    models: EditedModels, edit: int | None, prompt: str, answer: str
) -> tuple[list[int], list[int]]:
    """Predicted tokens and those of the answer, as in the published code: one whole sentence."""
    delta = models.unedited().deltas[0] if edit is None else models.deltas[edit]
    tokenizer = models.model.tokenizer
    ids = tokenizer(f"{prompt} {answer}")["input_ids"]
    start = len(tokenizer(prompt)["input_ids"])
    with applied(models.model, delta), torch.no_grad():
        predicted = models.model.hf(torch.tensor([ids])).logits[0].argmax(dim=-1).tolist()
    return predicted[start - 1 : -1], ids[start:]


def agreement(first: Sequence[int], second: Sequence[int]) -> float:
    return fmean(float(a == b) for a, b in zip(first, second, strict=True))


def question(prompt: str, *spellings: str) -> tuple[Consequence, ...]:
    return (Consequence((OpenQuestion(prompt, (spellings,)),)),)


def test_scores_match_the_definition(models: EditedModels) -> None:
    rows = make_metric("knowedit").score(models, WITH_QUESTIONS)
    for edit, (record, row) in enumerate(zip(WITH_QUESTIONS, rows, strict=True)):
        expected: dict[str, float] = {}
        for score, kind in (("edit", "rewrite"), ("rephrase", "paraphrase")):
            expected[score] = fmean(
                agreement(*naive(models, edit, probe.prompt, probe.target_new))
                for probe in record.probes[kind]
            )
        for group, [test] in record.consequences.items():
            prompt, answer = test.questions[0].prompt, test.questions[0].answers[0][0]
            after, wanted = naive(models, edit, prompt, answer)
            if group in ("relation_specificity", "forgetfulness"):
                wanted = naive(models, None, prompt, answer)[0]
            expected[group] = agreement(after, wanted)
        expected["portability"] = fmean(
            expected[group] for group in ("aliases", "multi_hop", "logical_generalization")
        )
        expected["locality"] = fmean(
            expected[group] for group in ("relation_specificity", "forgetfulness")
        )
        scores = {key: value for key, value in row.items() if not key.endswith("_prompts")}
        assert scores == {f"knowedit/{key}": value for key, value in expected.items()}


def test_scores_by_hand(models: EditedModels) -> None:
    """After "Microsoft is", edit 1 predicts the second of two tokens, if it is given the first."""
    half, whole, none = ("Microsoft is", "Kar Kar"), ("Microsoft is Kar", "Kar"), ("Rome", "Kar")
    shares = [agreement(*naive(models, 1, *each)) for each in (half, whole, none)]
    assert shares == [1 / 2, 1.0, 0.0]
    record = Record(
        1,
        RECORDS[1].request,
        probes={
            "rewrite": (Probe(half[0], "Rome", half[1]),),
            "paraphrase": (Probe(whole[0], "Rome", whole[1]), Probe(none[0], "Rome", none[1])),
        },
        consequences={
            "aliases": question(*half) + question(*whole),
            "logical_generalization": question(*none),
        },
    )
    one = EditedModels(models.model, models.deltas[1:2])
    [row] = make_metric("knowedit").score(one, [record])
    assert row == {
        "knowedit/edit": 1 / 2,
        "knowedit/edit_prompts": [1 / 2],
        "knowedit/rephrase": 1 / 2,
        "knowedit/rephrase_prompts": [1.0, 0.0],
        "knowedit/aliases": 3 / 4,
        "knowedit/aliases_prompts": [1 / 2, 1.0],
        "knowedit/logical_generalization": 0.0,
        "knowedit/logical_generalization_prompts": [0.0],
        "knowedit/portability": 3 / 8,  # the mean of two sub-scores, not of three questions
    }
    [strict] = make_metric("knowedit", credit="answer").score(one, [record])
    assert strict["knowedit/edit"] == 0.0
    assert strict["knowedit/portability"] == (1 / 2 + 0) / 2


def test_the_first_spelling_counts_or_the_best(models: EditedModels) -> None:
    one = EditedModels(models.model, models.deltas[1:2])
    tests = question("Microsoft is Kar", "Rome", "Kar")
    record = Record(1, RECORDS[1].request, consequences={"aliases": tests})
    [published] = make_metric("knowedit").score(one, [record])
    [kindest] = make_metric("knowedit", spellings="best").score(one, [record])
    assert published["knowedit/aliases"] == 0.0
    assert kindest["knowedit/aliases"] == 1.0


@pytest.mark.parametrize("credit", ["tokens", "answer"])
def test_locality_is_about_change_not_about_truth(models: EditedModels, credit: str) -> None:
    """An unchanged model keeps every token, whatever it predicts; an edited one some of them."""
    metric = make_metric("knowedit", credit=credit)
    for row in metric.score(models.unedited(), WITH_QUESTIONS):
        assert row["knowedit/locality"] == 1.0
    prompts = ("Paris is in", "Microsoft")
    answer = "Seattle Rome France Italy"
    record = Record(
        0,
        RECORDS[0].request,
        consequences={
            "forgetfulness": tuple(test for prompt in prompts for test in question(prompt, answer))
        },
    )
    one = EditedModels(models.model, models.deltas[:1])
    [row] = metric.score(one, [record])
    shares = [
        agreement(naive(models, 0, prompt, answer)[0], naive(models, None, prompt, answer)[0])
        for prompt in prompts
    ]
    assert any(0 < share < 1 for share in shares) or len(set(shares)) == 2
    if credit == "answer":
        shares = [float(share == 1) for share in shares]
    assert row["knowedit/locality"] == fmean(shares)


def test_each_record_is_compared_with_its_own_edit_in_one_model(models: EditedModels) -> None:
    """A record without portability has no such score, and nothing is averaged across records."""
    bare = dataclasses.replace(WITH_QUESTIONS[1], consequences={})
    rows: list[Any] = make_metric("knowedit").score(models, [WITH_QUESTIONS[0], bare, RECORDS[2]])
    assert {"knowedit/portability", "knowedit/locality"} <= set(rows[0])
    for row in rows[1:]:
        assert {key for key in row if not key.endswith("_prompts")} == {
            "knowedit/edit", "knowedit/rephrase",
        }  # fmt: skip
