"""The scores equal the published definition, computed one text after the other."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from editkit import (
    Consequence,
    EditedModels,
    EditRequest,
    OpenQuestion,
    PromptContext,
    Record,
    WeightDelta,
    applied,
    make_metric,
)
from editkit.editing import greedy
from editkit.editing.queries import GenerationQuery
from editkit.records.config import PromptConfig, with_prompt_config
from editkit.testing.samples import RECORDS, random_edits
from editkit_plugins.ripple_edits import metric as metric_module
from tests.tiny import tiny

Tests = dict[str, tuple[Consequence, ...]]
NEVER = "not in any text"


@pytest.fixture(scope="module")
def models() -> EditedModels:
    model = tiny(context_length=128)
    return EditedModels(model, random_edits(model, RECORDS))


@functools.cache
def naive_text(models: EditedModels, edit: int | None, prompt: str) -> str:
    """Prompt and greedy continuation, as many tokens as the prompt has characters and 30 more."""
    delta = models.unedited().deltas[0] if edit is None else models.deltas[edit]
    ids = torch.tensor([models.model.tokenizer(prompt)["input_ids"]])
    with applied(models.model, delta), torch.no_grad():
        out = models.model.hf.generate(
            ids, do_sample=False, max_length=len(prompt) + 30, attention_mask=torch.ones_like(ids)
        )
    return str(models.model.tokenizer.decode(out[0], skip_special_tokens=True))


def written(models: EditedModels, edit: int | None, prompt: str) -> str:
    """Some letters that the model writes near the end of the published length."""
    return naive_text(models, edit, prompt)[-4:]


def question(prompt: str, *answers: Sequence[str]) -> OpenQuestion:
    return OpenQuestion(prompt, tuple(tuple(each) for each in answers))


def record_with(models: EditedModels, edit: int, tests: Tests, *, success: bool = True) -> Record:
    request = RECORDS[edit].request
    target = written(models, edit, request.sentence) if success else NEVER
    edited = EditRequest(request.prompt, request.subject, target.strip())
    return Record(edit, edited, consequences=tests)


def test_scores_by_hand(models: EditedModels) -> None:
    right = question("Microsoft is", [written(models, 0, "Microsoft is")])
    wrong = question("Windows is", [NEVER])
    half = question("Rome", [written(models, 0, "Rome")], [NEVER])  # one of two answers
    known = question("Paris", [written(models, None, "Paris")])
    tests: Tests = {
        "logical_generalization": (
            Consequence((right, wrong), "any"),  # passes
            Consequence((right, wrong), "all"),  # fails
            Consequence((half,)),  # fails
            Consequence((right,), "any", (known, wrong)),  # one condition fails: not executed
        ),
        "aliases": (Consequence((right,), "any", (wrong,)),),  # nothing executed
        "forgetfulness": (Consequence((right,), "all", (known,)),),  # passes
    }
    failing: Tests = {"forgetfulness": (Consequence((known,)),), "other": tests["aliases"]}
    records = [record_with(models, 0, tests), record_with(models, 1, failing, success=False)]
    two = EditedModels(models.model, models.deltas[:2])
    first, second = make_metric("ripple-edits").score(two, records)
    scores = {key: value for key, value in first.items() if isinstance(value, float)}
    assert scores == {
        "ripple_edits/edit": 1.0,
        "ripple_edits/edit_before": scores["ripple_edits/edit_before"],
        "ripple_edits/logical_generalization": 1 / 3,
        "ripple_edits/logical_generalization_executed": 3 / 4,
        "ripple_edits/aliases_executed": 0.0,
        "ripple_edits/forgetfulness": 1.0,
        "ripple_edits/forgetfulness_executed": 1.0,
        "ripple_edits/executed": 4 / 6,
    }
    assert first["ripple_edits/logical_generalization_passed"] == [1.0, 0.0, 0.0]
    assert first["ripple_edits/forgetfulness_texts"] == [naive_text(models, 0, "Microsoft is")]
    assert second["ripple_edits/edit"] == 0.0
    assert "ripple_edits/forgetfulness" not in second  # left out: the edit failed
    assert second["ripple_edits/forgetfulness_executed"] == 1.0
    assert "ripple_edits/other_executed" not in second
    [_, counted] = make_metric("ripple-edits", failed_edits="counted").score(two, records)
    assert counted["ripple_edits/forgetfulness"] == float(
        written(models, None, "Paris") in naive_text(models, 1, "Paris")
    )


def test_conditions_and_the_edit_before_it_are_asked_of_the_unedited_model(
    models: EditedModels,
) -> None:
    prompt = "Paris is in"
    only_before, only_after = (written(models, edit, prompt) for edit in (None, 0))
    assert only_before not in naive_text(models, 0, prompt)
    assert only_after not in naive_text(models, None, prompt)
    knew, knows = question(prompt, [only_before]), question(prompt, [only_after])
    tests: Tests = {
        "compositionality_1": (Consequence((knows,), "any", (knew,)),),
        "compositionality_2": (Consequence((knew,), "any", (knows,)),),
        "relation_specificity": (Consequence((knew,)),),
    }
    record = Record(0, EditRequest("{} is in", "Paris", only_after), consequences=tests)
    one = EditedModels(models.model, models.deltas[:1])
    [row] = make_metric("ripple-edits").score(one, [record])
    assert row["ripple_edits/compositionality_1"] == 1.0
    assert row["ripple_edits/compositionality_2_executed"] == 0.0
    assert row["ripple_edits/relation_specificity"] == 0.0
    assert (row["ripple_edits/edit"], row["ripple_edits/edit_before"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("spellings", "changes", "passed"),
    [
        (["Rome"], {}, True),  # the prompt holds the answer
        (["Rome"], {"text": "continuation"}, False),
        (["rome"], {}, False),  # letter by letter
        (["rome"], {"match": "contained"}, True),
        (["Rom"], {}, True),
        (["Rom"], {"match": "contained"}, False),
        (["R"], {}, False),  # a single letter is dropped
        (["R"], {"letters": "kept"}, True),
        (["7"], {}, True),  # a digit is not
        (["R", NEVER], {}, False),
    ],
)
def test_each_rule_of_matching(
    models: EditedModels, spellings: list[str], changes: dict[str, Any], passed: bool
) -> None:
    tests: Tests = {"aliases": (Consequence((question("7 Rome days of", spellings),)),)}
    record = record_with(models, 0, tests)
    one = EditedModels(models.model, models.deltas[:1])
    metric = make_metric("ripple-edits", failed_edits="counted", **changes)
    [row] = metric.score(one, [record])
    assert row["ripple_edits/aliases"] == float(passed)


def test_lengths_and_stops(models: EditedModels) -> None:
    tests: Tests = {"aliases": (Consequence((question("Rome and", ["x y"]),)),)}
    one = EditedModels(models.model, models.deltas[:1])

    def text(**changes: Any) -> str:
        metric = make_metric("ripple-edits", text="continuation", **changes)
        [row] = metric.score(one, [record_with(models, 0, tests)])
        [only] = row["ripple_edits/aliases_texts"]
        return str(only)

    n_prompt = len(models.model.tokenizer("Rome and")["input_ids"])
    whole = naive_text(models, 0, "Rome and").removeprefix("Rome and")
    assert text() == whole
    assert text(length="fixed", extra=len("Rome and") + 30 - n_prompt) == whole
    short = text(length="fixed", extra=3)
    assert whole.startswith(short)
    assert len(short) < len(whole)
    assert text(length="fixed", extra=3, stop="tokens") == short.strip()


def test_texts_in_front_of_prompts_are_not_part_of_the_text(models: EditedModels) -> None:
    context = PromptContext(("Paris is in Seattle.",))
    delta = WeightDelta(
        {}, RECORDS[0].request, "test", {}, models.model.fingerprint, context=context
    )
    tests: Tests = {"aliases": (Consequence((question("Rome and", ["Seattle."]),)),)}
    one = EditedModels(models.model, [delta])
    [row] = make_metric("ripple-edits", failed_edits="counted").score(
        one, [Record(0, RECORDS[0].request, consequences=tests)]
    )
    whole = naive_text(models, None, f"{context.before('Rome and')}Rome and")
    [text] = row["ripple_edits/aliases_texts"]
    assert text == whole.removeprefix(context.before("Rome and"))


def test_a_record_without_these_criteria_has_no_scores(models: EditedModels) -> None:
    one = EditedModels(models.model, models.deltas[:1])
    tests: Tests = {"multi_hop": (Consequence((question("Rome", ["a"]),)),)}
    record = Record(0, RECORDS[0].request, consequences=tests)
    assert make_metric("ripple-edits").score(one, [record]) == [{}]


def test_the_unedited_model_answers_a_question_once(
    models: EditedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def ask(models: EditedModels, queries: Sequence[Any], **settings: Any) -> list[Any]:
        asked.append([query.prompt for query in queries])
        return greedy.greedy_continuations(models, queries, **settings)

    monkeypatch.setattr(metric_module, "greedy_continuations", ask)
    known = question("Paris is in", [written(models, None, "Paris is in")])
    tests: Tests = {"aliases": (Consequence((question("Rome", ["x"]),), "any", (known, known)),)}
    two = EditedModels(models.model, models.deltas[:2])
    records = [record_with(models, edit, tests) for edit in (0, 1)]
    metric = make_metric("ripple-edits")
    first = metric.score(two, records)
    assert asked[0] == ["Paris is in"]
    n_edits, n_before = 2 + 2, 1 + 2  # with the edits' own prompts
    assert sum(map(len, asked)) == n_edits + n_before
    asked.clear()
    assert metric.score(two, records) == first
    assert sum(map(len, asked)) == n_edits


def test_questions_in_a_chat_are_turns(models: EditedModels) -> None:
    tests: Tests = {"aliases": (Consequence((question("Rome and", ["x y"]),)),)}
    request = EditRequest("{} is in", "Paris", "Rome", chat=True)
    plain = Record(0, request, consequences=tests)
    asked = with_prompt_config(plain, PromptConfig(chat=True))
    [row] = make_metric("ripple-edits", length="fixed", extra=4).score(
        EditedModels(models.model, models.deltas[:1]), [asked]
    )
    query = GenerationQuery(0, "Rome and", chat=True)
    [answer] = greedy.greedy_continuations(models, [query], new_tokens=4)
    assert row["ripple_edits/aliases_texts"] == [f"Rome and\n{answer.text}"]
    [longer] = make_metric("ripple-edits").score(
        EditedModels(models.model, models.deltas[:1]), [asked]
    )
    rendered = models.model.rendered("Rome and", chat=True).text
    n_new = len(rendered) + 30 - len(models.prompt(query).ids)
    [whole] = greedy.greedy_continuations(models, [query], new_tokens=n_new)
    assert longer["ripple_edits/aliases_texts"] == [f"Rome and\n{whole.text}"]
