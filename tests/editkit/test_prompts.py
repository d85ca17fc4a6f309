"""The separator between prompt and answer, and checks of texts."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit import EditRequest, Fact, Probe, Record, RequestError
from editkit.editing.edited_models import CandidateQuery, GenerationQuery
from editkit.prompts import default_separator, joined, trimmed_prompt
from editkit.records.digests import digest_of_records, slice_digest

SPACE, NONE = " ", ""
CASES = [
    ("The capital of France is", "Rome", SPACE),
    ("法国的首都是", "罗马", NONE),
    ("フランスの首都は", "ローマ", NONE),
    ("เมืองหลวงของฝรั่งเศสคือ", "โรม", NONE),
    ("ເມືອງຫຼວງແມ່ນ", "ໂຣມ", NONE),
    ("រាជធានីគឺ", "រ៉ូម", NONE),
    ("မြို့တော်မှာ", "ရောမ", NONE),
    ("རྒྱལ་ས་ནི་", "རོམ", NONE),
    ("프랑스의 수도는", "로마", SPACE),
    ("Столица Франции —", "Рим", SPACE),
    ("עיר הבירה היא", "רומא", SPACE),
    # mixed scripts
    ("iPhone的制造商是", "Apple", NONE),
    ("The Chinese name of Rome is", "罗马", SPACE),
    ("首都不是Paris", "而是罗马", NONE),
    ("2008年的奖牌数是", "51", NONE),
    ("答案：", "Rome", NONE),
    ("答案:", "罗马", NONE),
    ("Answer:", "罗马", SPACE),
    ("수도는", "罗马", SPACE),
    ("東京は", "「日本」", NONE),
    ("Tokyo is", "「日本」", SPACE),
    # line breaks
    ("Q: Where is it?\nA:\n", "Rome", NONE),
    ("A:", "Rome", SPACE),
    # quotes and brackets
    ('He said "', "Rome", NONE),
    ('He said "Rome"', "and", SPACE),
    ('He said "Rome" and "', "Paris", NONE),
    ('他说"', "罗马", NONE),
    ('It is 24"', "wide", SPACE),
    ("It's '", "Rome", NONE),
    ("the 'Rome'", "is", SPACE),
    ("the players'", "union", SPACE),
    ("I don't", "know", SPACE),
    ("Er sagt „", "Rom", NONE),
    ("Er sagt „Rom“", "ist", SPACE),
    ("Il dit «", "Rome", NONE),
    ("Il dit «Rome»", "et", SPACE),
    ("Er sagt »", "Rom", NONE),
    ("Er sagt »Rom«", "ist", SPACE),
    ("He says “", "Rome", NONE),
    ("He says “Rome”", "is", SPACE),
    ("Rome (", "Italy", NONE),
    ("Rome (Italy)", "is", SPACE),
    ("Rome [", "Italy", NONE),
    ("東京（", "日本", NONE),
    ("「", "東京", NONE),
    ("The answer is **", "Rome", NONE),
    ("The answer **Rome**", "is", SPACE),
    # attached to the word before
    ("anglo-", "saxon", NONE),
    ("Rome -", "Italy", SPACE),
    ("and/", "or", NONE),
    ("1990–", "1995", NONE),
    ("la capitale de l'", "Italie", NONE),
    ("la capitale de l’", "Italie", NONE),
    ("It costs $", "5", NONE),
    ("written in C++", "and", SPACE),
    ("written in C#", "and", SPACE),
    ("Rome", ", Italy", NONE),
    ("Rome", ".", NONE),
    ("Rome", "'s mayor", NONE),
    ("It is", "'s-Hertogenbosch", SPACE),
    ("It runs on", ".NET", SPACE),
    ("cafe\u0301", "bar", SPACE),
]


@pytest.mark.parametrize(("prompt", "target", "expected"), CASES)
def test_the_separator_follows_the_script_and_the_end_of_the_prompt(
    prompt: str, target: str, expected: str
) -> None:
    assert default_separator(prompt, target) == expected
    assert joined(prompt, target) == prompt + expected + target
    assert EditRequest(f"{{}} {prompt}", "Rome", target).statement.endswith(expected + target)


texts = st.text(max_size=20)


@given(prompt=texts, target=texts)
def test_any_two_texts_have_a_separator_and_never_two_spaces(prompt: str, target: str) -> None:
    separator = default_separator(prompt, target)
    assert separator in (" ", "")
    if separator:
        assert not prompt[-1].isspace()
        assert not target[0].isspace()


def everywhere(prompt: str, target: str, separator: str | None = None) -> list[tuple[str, str]]:
    """The prompt and the target as every kind of question keeps them."""
    request = EditRequest(f"{{}} {prompt}", "Rome", target, target, separator=separator)
    probe = Probe(prompt, target, target, separator)
    fact = Fact(f"Rome {prompt}", "Rome", target, separator)
    query = CandidateQuery(0, prompt, (target,), separator)
    assert request.target_true == request.target_new
    assert probe.target_true == probe.target_new
    assert GenerationQuery(0, prompt).prompt == probe.prompt
    return [
        (request.prompt.removeprefix("{} "), request.target_new),
        (probe.prompt, probe.target_new),
        (fact.prompt.removeprefix("Rome "), str(fact.answer)),
        (query.prompt, query.candidates[0]),
    ]


@pytest.mark.parametrize("space", [" ", "  ", "\t", "\xa0", "\u3000", " \u2009"])
def test_white_space_around_prompt_and_target_is_dropped_everywhere(space: str) -> None:
    assert set(everywhere(f"is in{space}", f"{space}Paris{space}")) == {("is in", "Paris")}
    assert set(everywhere("is in", f"\n{space}Paris\n")) == {("is in", "Paris")}


def test_a_line_break_at_the_end_of_a_prompt_is_kept() -> None:
    assert set(everywhere("is in?\nA:\n ", "Paris")) == {("is in?\nA:\n", "Paris")}
    assert trimmed_prompt("A: \n \t") == "A: \n"


@pytest.mark.parametrize(("prompt", "target"), [("is in ", "Paris"), ("is in", " Paris")])
def test_white_space_next_to_a_given_separator_is_refused_everywhere(
    prompt: str, target: str
) -> None:
    for build in (
        lambda: EditRequest(f"{{}} {prompt}", "Rome", target, separator=" "),
        lambda: Probe(prompt, target, "x", ""),
        lambda: Fact(f"Rome {prompt}", "Rome", target, " "),
        lambda: CandidateQuery(0, prompt, (target,), " "),
    ):
        with pytest.raises(RequestError, match="not clear whether its"):
            build()


LONELY = "R\ud800me"


def fields() -> list[tuple[type, dict[str, Any], str]]:
    request = {"prompt": "{} is", "subject": "Rome", "target_new": "x", "target_true": "y"}
    fact = {"prompt": "Rome is", "subject": "Rome", "answer": "x"}
    probe = {"prompt": "Rome is", "target_true": "x", "target_new": "y"}
    query = {"edit": 0, "prompt": "Rome is"}
    return [
        *[(EditRequest, request, field) for field in (*request, "relation_id", "separator")],
        *[(Fact, fact, field) for field in (*fact, "separator")],
        *[(Probe, probe, field) for field in (*probe, "separator")],
        (CandidateQuery, {**query, "candidates": ("x",)}, "prompt"),
        (GenerationQuery, query, "prompt"),
    ]


@pytest.mark.parametrize(("kind", "values", "field"), fields())
def test_half_a_surrogate_pair_is_refused_in_every_field(
    kind: type, values: dict[str, Any], field: str
) -> None:
    with pytest.raises(RequestError, match=f"{field} is .*surrogate pair"):
        kind(**{**values, field: f"{{}}{LONELY}" if field == "prompt" else LONELY})
    with pytest.raises(RequestError, match="candidate is .*surrogate pair"):
        CandidateQuery(0, "Rome is", ("x", LONELY))


@pytest.mark.parametrize("value", ["", "  ", 3, None])
def test_values_that_are_not_strings_are_refused(value: Any) -> None:
    for build in (
        lambda: EditRequest("{} is", "Rome", value),
        lambda: EditRequest("{} is", value, "x"),
        lambda: Probe("It is", value, "x"),
        lambda: CandidateQuery(0, "It is", (value,)),
        lambda: GenerationQuery(0, value),
    ):
        with pytest.raises(RequestError, match="expected a non-empty text"):
            build()
    if value is not None and value != "":
        with pytest.raises(RequestError):
            EditRequest("{} is", "Rome", "x", chat=value)


# ---------------------------------------------------------------- what is stored


def record(**changes: Any) -> Record:
    request = EditRequest("{} is in", "Rome", "Paris", "Italy", **changes)
    return Record(0, request, {"rewrite": (Probe("Rome is in", "Italy", "Paris", **changes),)})


def test_separator_and_chat_enter_digests_only_if_set() -> None:
    plain = record()
    assert plain.request.to_dict() == {
        "prompt": "{} is in",
        "subject": "Rome",
        "target_new": "Paris",
        "target_true": "Italy",
        "relation_id": None,
    }
    # As of the version before there were such fields.
    assert digest_of_records([plain]) == (
        "9620e0209958ce3b3e9c55034914df27ae15468fc22e59648552947aeca593c0"
    )
    assert slice_digest((plain,)) == (
        "98543e28a2a663b48d74b538e8ff205dd5c7dea70a0bd9bde3b0742a561701b8"
    )
    others = [record(separator=""), record(separator=" "), record(chat=True)]
    assert len({digest_of_records([each]) for each in (plain, *others)}) == 4
    assert len({slice_digest((each,)) for each in (plain, *others)}) == 4


@pytest.mark.parametrize("changes", [{}, {"separator": ""}, {"separator": "\n", "chat": True}])
def test_a_request_round_trips_through_plain_data(changes: dict[str, Any]) -> None:
    request = dataclasses.replace(record().request, **changes)
    assert EditRequest.from_dict(request.to_dict()) == request


def test_a_request_that_an_earlier_version_saved_keeps_its_sentence() -> None:
    old = {"prompt": "The city of{} is in ", "subject": " Rome ", "target_new": " Paris"}
    request = EditRequest.from_dict(old)
    assert (request.sentence, request.subject) == ("The city of Rome  is in", "Rome")
    assert request.statement == "The city of Rome  is in Paris"
