"""The metric ``consequences``, against texts of transformers and shares counted on paper."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest

from editkit import (
    ConfigError,
    Consequence,
    EditedModels,
    LanguageModel,
    MetricRow,
    OpenQuestion,
    Record,
    WeightDelta,
    make_metric,
)
from editkit.editing.queries import GenerationQuery
from tests.editkit.editing.test_deltas import REQUEST, delta_for
from tests.editkit.editing.test_greedy import plain
from tests.tiny import tiny

PROMPTS = ("Paris is", "The Space Needle is in the city of", "Microsoft", "Rome and")
TOKENS = 4


@dataclasses.dataclass(frozen=True)
class Asked:
    """A model, an edit, and what transformers writes after each prompt before and after it."""

    model: LanguageModel
    delta: WeightDelta
    before: dict[str, str]
    after: dict[str, str]


@pytest.fixture(scope="module")
def texts() -> Asked:
    model = tiny("gpt2")
    delta, none = delta_for(model, 1), delta_for(model, kinds="")
    before, after = (
        {
            prompt: plain(model, each, GenerationQuery(0, prompt), TOKENS).strip()
            for prompt in (*PROMPTS, REQUEST.sentence)
        }
        for each in (none, delta)
    )
    assert all(before[prompt] != after[prompt] for prompt in PROMPTS)
    return Asked(model, delta, before, after)


def asked(prompt: str, answer: str) -> OpenQuestion:
    return OpenQuestion(prompt, ((answer,),))


def rows_of(texts: Asked, *records: Record, **config: Any) -> list[MetricRow]:
    metric = make_metric(
        "consequences", **{"stop": "tokens", "tokens": TOKENS, "match": "exact", **config}
    )
    return metric.score(EditedModels(texts.model, [texts.delta] * len(records)), records)


def numbers(row: MetricRow) -> dict[str, float]:
    """The scores of a row, by the part after the metric's name."""
    return {
        key.removeprefix("consequences/"): value
        for key, value in row.items()
        if isinstance(value, float)
    }


def record_of(texts: Asked) -> Record:
    """A record with tests that pass (new answer), fail (zebra), and are not executed."""
    one, two, three, four = PROMPTS
    new = {prompt: asked(prompt, text) for prompt, text in texts.after.items()}
    old = {prompt: asked(prompt, text) for prompt, text in texts.before.items()}
    wrong = {prompt: asked(prompt, "zebra") for prompt in PROMPTS}
    tests = {
        "compositionality_1": (
            Consequence((new[one],), conditions=(old[two], old[three])),  # passes
            Consequence((wrong[one], wrong[two])),  # fails
            Consequence((wrong[one], new[two])),  # passes: any
            Consequence((new[one],), conditions=(old[two], wrong[three])),  # not executed
        ),
        "reversal": (Consequence((wrong[three], new[three]), "all"),),  # fails: all
        "relation_specificity": (
            Consequence((old[four],), conditions=(old[four],)),  # fails, and the answer changed
            Consequence((new[four],), conditions=(old[four],)),  # passes, changed, failed before
        ),
        "multi_hop": (Consequence((new[one],), conditions=(wrong[two],)),),  # not executed
    }
    return Record(3, REQUEST, consequences=tests)


def test_shares_by_group_are_those_counted_on_paper(texts: Asked) -> None:
    [row] = rows_of(texts, record_of(texts))
    assert numbers(row) == pytest.approx(
        {
            "compositionality_1": 2 / 3,
            "compositionality_1_before": 0,
            "compositionality_1_executed": 3 / 4,
            "reversal": 0,
            "reversal_before": 0,
            "reversal_executed": 1,
            "multi_hop_executed": 0,
            "relation_specificity_executed": 1,
            "all": 1 / 3,
            "all_before": 0,
            "relation_specificity": 1 / 2,
            "relation_specificity_before": 1 / 2,
            "relation_specificity_changed": 1,
            "kept": 1 / 2,
            "kept_before": 1 / 2,
            "kept_changed": 1,
            "executed": 6 / 8,
            "edited": 0,
        }
    )


def test_the_row_keeps_which_tests_passed_and_the_answers(texts: Asked) -> None:
    [row] = rows_of(texts, record_of(texts))
    one, two = PROMPTS[:2]
    assert row["consequences/compositionality_1_conditions_met"] == [1, 1, 1, 0]
    assert row["consequences/compositionality_1_passed"] == [1, 0, 1]
    assert row["consequences/compositionality_1_passed_before"] == [0, 0, 0]
    assert row["consequences/compositionality_1_answers"] == [
        f"{prompt} {texts.after[prompt]}" for prompt in (one, one, two, one, two)
    ]
    assert row["consequences/relation_specificity_differs"] == [1, 1]
    assert row["consequences/multi_hop_conditions_met"] == [0]
    assert "consequences/multi_hop_passed" not in row


def test_nothing_changed_without_an_edit(texts: Asked) -> None:
    none = dataclasses.replace(texts, delta=delta_for(texts.model, kinds=""))
    [row] = rows_of(none, record_of(texts))
    scores = numbers(row)
    assert scores["relation_specificity"] == scores["relation_specificity_before"] == 1 / 2
    assert scores["kept_changed"] == 0
    assert scores["all"] == scores["all_before"] == 0


def test_only_records_with_successful_edits_may_count(texts: Asked) -> None:
    failed = record_of(texts)
    request = dataclasses.replace(REQUEST, target_new="zebra")
    spelled = dataclasses.replace(
        failed, request=request, aliases={"zebra": (texts.after[REQUEST.sentence],)}
    )
    half = dataclasses.replace(spelled, also=(REQUEST,))
    rows = rows_of(texts, failed, spelled, half, only_successful_edits=True)
    assert [numbers(row)["edited"] for row in rows] == [0, 1, 0]
    assert [numbers(row).get("all") for row in rows] == [None, pytest.approx(1 / 3), None]
    assert {key for key in numbers(rows[0]) if not key.endswith("executed")} == {"edited"}
    assert rows[0]["consequences/reversal_passed"] == [0]


def test_a_dataset_may_have_groups_of_its_own(
    texts: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    new = Consequence((asked(PROMPTS[0], texts.after[PROMPTS[0]]),))
    record = Record(0, REQUEST, consequences={"reversal": (new,), "rhyme": (new,)})
    with caplog.at_level(logging.WARNING):
        [row] = rows_of(texts, record)
    assert numbers(row) == {"reversal": 1, "reversal_before": 0, "all": 1, "all_before": 0,
                            "reversal_executed": 1, "executed": 1, "edited": 0}  # fmt: skip
    assert "tests of the groups rhyme are not scored" in caplog.text
    [changing] = rows_of(texts, record, changing=("rhyme",))
    assert numbers(changing)["rhyme"] == 1
    assert "kept" not in numbers(changing)
    [kept] = rows_of(texts, record, kept=("rhyme",))
    assert numbers(kept)["kept"] == numbers(kept)["rhyme_changed"] == 1


def test_an_own_group_that_no_record_has_is_reported(
    texts: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    test = Consequence((asked(PROMPTS[0], texts.after[PROMPTS[0]]),))
    records = [
        Record(0, REQUEST, consequences={"reversal": (test,)}),
        Record(1, REQUEST, consequences={"rhyme": (test,)}),
    ]
    make_metric("consequences", kept=("rhyme",)).check_records(records)
    make_metric("consequences").check_records([])
    assert not caplog.records
    make_metric("consequences", kept=("rhyme",), changing=("rime",)).check_records(records)
    expected = "the group rime; the groups of its tests: reversal, rhyme"
    assert expected in caplog.text


@pytest.mark.parametrize("name", ["reversal", "all", "a/b", ""])
def test_names_of_own_groups_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be added as a group"):
        make_metric("consequences", changing=(name,))


def test_a_chat_frame_asks_everything_as_a_users_turn(texts: Asked) -> None:
    record = record_of(texts)
    framed = dataclasses.replace(
        record,
        request=dataclasses.replace(record.request, chat=True),
        consequences={
            group: tuple(
                Consequence(
                    tuple(dataclasses.replace(each, chat=True) for each in test.questions),
                    test.needs,
                    tuple(dataclasses.replace(each, chat=True) for each in test.conditions),
                )
                for test in tests
            )
            for group, tests in record.consequences.items()
        },
    )
    assert rows_of(texts, record, frame="chat") == rows_of(texts, framed)
    assert rows_of(texts, record, frame="chat") != rows_of(texts, record)
