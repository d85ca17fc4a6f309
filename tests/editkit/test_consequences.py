from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from editkit import Consequence, EditRequest, OpenQuestion, Probe, Record, RequestError, UsageError
from editkit.records.config import PromptConfig, with_prompt_config
from editkit.records.digests import digest_of_records, slice_digest

REQUEST = EditRequest("{} is in", "The Louvre", "Rome", "Paris")
QUESTION = OpenQuestion("The Louvre is in the country of ", (("Italy", "Italia"),))
TEST = Consequence(
    (QUESTION,), conditions=(OpenQuestion("Rome is in the country of", (("Italy",),)),)
)
RECORD = Record(
    7,
    REQUEST,
    probes={"rewrite": (Probe("The Louvre is in", "Paris", "Rome"),)},
    also=(EditRequest("{} opened in", "The Louvre", "1900"),),
    consequences={"compositionality_1": (TEST,)},
    aliases={"Rome": ("Roma",)},
)


def test_trailing_spaces_of_a_question_are_dropped() -> None:
    assert QUESTION.prompt == "The Louvre is in the country of"


@pytest.mark.parametrize("answers", [(), ((),), (("Italy",), ()), (("  ",),), ("Italy",), "Italy"])
def test_a_question_needs_answers_with_spellings(answers: Any) -> None:
    with pytest.raises(RequestError, match="answer"):
        OpenQuestion("Where?", answers)


@pytest.mark.parametrize("chat", ["yes", 1, None])
def test_chat_is_true_or_false(chat: Any) -> None:
    with pytest.raises(RequestError, match="chat is"):
        OpenQuestion("Where?", (("Italy",),), chat=chat)


def test_a_test_needs_questions_and_a_known_rule() -> None:
    with pytest.raises(RequestError, match="no questions"):
        Consequence(())
    with pytest.raises(RequestError, match="needs is 'most', expected 'any' or 'all'"):
        Consequence((QUESTION,), needs="most")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"questions\[0\], expected an OpenQuestion"):
        Consequence(("Where?",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("also", ("Rome",), r"also\[0\], expected an EditRequest"),
        ("consequences", {"reversal": (QUESTION,)}, r"consequences\['reversal'\]\[0\]"),
        ("aliases", {"Rome": (1,)}, r"aliases\['Rome'\]\[0\]"),
    ],
)
def test_wrong_parts_of_a_record_are_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(RECORD, **{field: value})


def test_a_record_has_all_its_edits_and_spellings() -> None:
    assert RECORD.requests == (REQUEST, *RECORD.also)
    assert RECORD.unprobed == RECORD.also
    assert dataclasses.replace(RECORD, probes={}).unprobed == RECORD.requests
    assert RECORD.spellings("Rome") == ("Rome", "Roma")
    assert RECORD.spellings("Paris") == ("Paris",)
    assert "and 1 other edit" in repr(RECORD)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("also", (EditRequest("{} opened in", "The Louvre", "1901"),)),
        ("also", ()),
        ("consequences", {"reversal": (TEST,)}),
        ("consequences", {"compositionality_1": (dataclasses.replace(TEST, needs="all"),)}),
        ("consequences", {"compositionality_1": (dataclasses.replace(TEST, conditions=()),)}),
        (
            "consequences",
            {
                "compositionality_1": (
                    Consequence((dataclasses.replace(QUESTION, answers=(("Italy",),)),)),
                )
            },
        ),
        ("aliases", {"Rome": ("roma",)}),
        ("aliases", {}),
    ],
)
def test_every_part_of_a_record_enters_both_digests(field: str, value: Any) -> None:
    other = dataclasses.replace(RECORD, **{field: value})
    assert digest_of_records([other]) != digest_of_records([RECORD])
    assert slice_digest([other]) != slice_digest([RECORD])


def test_records_without_the_new_parts_keep_their_digests() -> None:
    plain = Record(7, REQUEST, probes=RECORD.probes)
    assert digest_of_records([plain])[:12] == "f9d205c0ee53"
    assert slice_digest([plain])[:12] == "91a0983bdbf1"


def test_chat_reaches_further_edits_questions_and_conditions() -> None:
    asked = with_prompt_config(RECORD, PromptConfig(chat=True))
    [test] = asked.consequences["compositionality_1"]
    assert all(each.chat for each in (*asked.requests, *test.questions, *test.conditions))
    assert asked.aliases == RECORD.aliases
