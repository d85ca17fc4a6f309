from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from counterfact_samples import raw_record
from hypothesis import given
from hypothesis import strategies as st

from editkit_plugins.counterfact.dataset import parse_records


def test_a_record_becomes_a_request_probes_and_texts() -> None:
    records = parse_records([raw_record()])
    assert records.rejected == ()
    (record,) = records.records
    assert record.case_id == 7
    assert record.request.sentence == "the Fish Market stands in"
    assert (record.request.target_new, record.request.target_true) == ("Oslo", "Bergen")
    assert record.request.relation_id == "P131"
    assert {kind: len(probes) for kind, probes in record.probes.items()} == {
        "rewrite": 1,
        "paraphrase": 2,
        "neighborhood": 1,
        "attribute": 1,
        "same_subject": 1,
    }
    for kind in ("rewrite", "paraphrase", "neighborhood", "attribute"):
        assert {(p.target_true, p.target_new) for p in record.probes[kind]} == {("Bergen", "Oslo")}
    (other,) = record.probes["same_subject"]
    assert (other.target_true, other.target_new) == ("1276", "1900")
    assert record.texts == {"generation": ("Around the Fish Market you can",)}
    [county] = record.consequences["compositionality_1"]
    assert [each.prompt for each in county.questions] == [
        "the Fish Market is in the county of",
        "The county is",
    ]
    assert county.questions[1].answers == (("Oslo", "Oslo County"),)
    assert (county.needs, county.conditions[0].prompt) == ("all", "Oslo's county is")
    [opened] = record.consequences["relation_specificity"]
    assert (opened.needs, opened.conditions, opened.questions[0].chat) == ("any", (), False)
    assert record.spellings("Oslo") == ("Oslo", "Christiania")


def test_spaces_around_prompts_and_answers_are_normalised() -> None:
    raw = raw_record()
    raw["paraphrase_prompts"] = ["You find the Fish Market in "]
    raw["requested_rewrite"]["target_new"]["str"] = " Oslo"
    (record,) = parse_records([raw]).records
    assert record.probes["paraphrase"][0].prompt == "You find the Fish Market in"
    assert record.request.target_new == "Oslo"


@pytest.mark.parametrize(
    "absent", [["same_subject_prompts"], ["pararel_idx"], ["consequences", "aliases"]]
)
def test_extra_keys_are_optional(absent: list[str]) -> None:
    raw = {key: value for key, value in raw_record().items() if key not in absent}
    assert len(parse_records([raw]).records) == 1


def test_null_counts_as_missing() -> None:
    raw = raw_record() | {"same_subject_prompts": None, "aliases": {"Oslo": None}}
    raw["consequences"] |= {"compositionality_1": None}
    raw["consequences"]["relation_specificity"][0] |= {"needs": None, "conditions": None}
    (record,) = parse_records([raw]).records
    assert "same_subject" not in record.probes
    assert (list(record.consequences), record.aliases) == (["relation_specificity"], {})


OPTIONAL = ("same_subject_prompts", "pararel_idx", "consequences", "aliases")
_GROUP = ("consequences", "compositionality_1", 0)
_FIELD = "consequences.compositionality_1[0]"
_QUESTION = (*_GROUP, "questions", 1)

BREAKS: list[tuple[str, tuple[str | int, ...], Any, str]] = [
    ("case_id", ("case_id",), "seven", "an integer"),
    ("case_id", ("case_id",), True, "an integer"),
    ("case_id", ("case_id",), -1, "an integer"),
    ("case_id", ("case_id",), 2**63, "an integer"),
    ("requested_rewrite", ("requested_rewrite",), "text", "expected an object"),
    ("requested_rewrite.prompt", ("requested_rewrite", "prompt"), "It is in", "exactly one '{}'"),
    ("requested_rewrite.prompt", ("requested_rewrite", "prompt"), "{} is in {}", "2 places"),
    ("requested_rewrite.subject", ("requested_rewrite", "subject"), "  ", "not empty"),
    ("requested_rewrite.subject", ("requested_rewrite", "subject"), 5, "expected a text"),
    ("requested_rewrite.subject", ("requested_rewrite", "subject"), "\ud800", "Unicode"),
    ("requested_rewrite.target_new", ("requested_rewrite", "target_new"), "Oslo", "an object"),
    ("requested_rewrite.target_new.str", ("requested_rewrite", "target_new", "str"), "", "empty"),
    (
        "requested_rewrite.target_new.str",
        ("requested_rewrite", "target_new", "str"),
        "Bergen",
        "the same as requested_rewrite.target_true.str",
    ),
    ("paraphrase_prompts", ("paraphrase_prompts",), "one", "expected a list"),
    ("paraphrase_prompts[1]", ("paraphrase_prompts", 1), None, "expected a text"),
    ("neighborhood_prompts", ("neighborhood_prompts",), None, "is missing"),
    (
        "same_subject_prompts[0].target_other",
        ("same_subject_prompts", 0, "target_other"),
        None,
        "is missing",
    ),
    ("aliases", ("aliases",), ["Christiania"], "expected an object"),
    ("aliases.Oslo", ("aliases", "Oslo"), "Christiania", "expected a list"),
    ("aliases.Oslo[0]", ("aliases", "Oslo", 0), "", "not empty"),
    ("consequences", ("consequences",), [], "expected an object"),
    ("consequences.compositionality_1", (*_GROUP[:2],), "a test", "expected a list"),
    ("consequences.compositionality_1[0]", _GROUP, "a test", "expected an object"),
    (f"{_FIELD}.needs", (*_GROUP, "needs"), "most", "expected 'any' or 'all'"),
    (f"{_FIELD}.questions", (*_GROUP, "questions"), None, "is missing"),
    (f"{_FIELD}.questions", (*_GROUP, "questions"), [], "at least one question"),
    (f"{_FIELD}.questions[1].prompt", (*_QUESTION, "prompt"), 5, "expected a text"),
    (f"{_FIELD}.questions[1].chat", (*_QUESTION, "chat"), "yes", "expected true or false"),
    (f"{_FIELD}.questions[1].answers", (*_QUESTION, "answers"), [], "each a list of spellings"),
    (f"{_FIELD}.questions[1].answers", (*_QUESTION, "answers"), [[]], "each a list of spellings"),
    (f"{_FIELD}.questions[1].answers[0]", (*_QUESTION, "answers", 0), "Oslo", "expected a list"),
    (f"{_FIELD}.questions[1].answers[0][0]", (*_QUESTION, "answers", 0, 0), " ", "not empty"),
    (f"{_FIELD}.conditions[0].prompt", (*_GROUP, "conditions", 0, "prompt"), None, "is missing"),
]


@pytest.mark.parametrize(("field", "place", "value", "reason"), BREAKS)
def test_a_broken_record_is_reported_and_skipped(
    field: str, place: tuple[str | int, ...], value: Any, reason: str
) -> None:
    raw = raw_record(7)
    node: Any = raw
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    records = parse_records([raw_record(1), raw, raw_record(2)])
    assert [record.case_id for record in records.records] == [1, 2]
    (rejected,) = records.rejected
    assert rejected.field == field
    assert reason in rejected.reason
    if place != ("case_id",):
        assert rejected.case_id == "7"


@pytest.mark.parametrize("key", [key for key in raw_record() if key not in OPTIONAL])
def test_a_missing_field_is_reported(key: str) -> None:
    raw = {k: v for k, v in raw_record().items() if k != key}
    (rejected,) = parse_records([raw]).rejected
    assert (rejected.field, rejected.reason) == (key, "is missing")
    assert rejected.case_id == ("position 0" if key == "case_id" else "7")


def test_a_second_record_with_the_same_id_is_rejected() -> None:
    second = raw_record(7) | {"paraphrase_prompts": []}
    records = parse_records([raw_record(7), second])
    assert len(records.records[0].probes["paraphrase"]) == 2
    assert [(r.case_id, r.field) for r in records.rejected] == [("7", "case_id")]


def test_the_digest_depends_on_the_content_of_the_records_only() -> None:
    raw = [raw_record(1), raw_record(2)]
    digest = parse_records(raw).digest
    reordered = [dict(reversed(record.items())) for record in raw]
    assert parse_records(reordered).digest == digest
    assert parse_records([*raw, {"case_id": 3}]).digest == digest
    assert parse_records(reversed(raw)).digest != digest
    changed = copy.deepcopy(raw)
    changed[1]["neighborhood_prompts"][0] += "side"
    assert parse_records(changed).digest != digest


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=8,
)


@given(raw=st.lists(JSON, max_size=5))
def test_arbitrary_json_never_stops_the_load(raw: list[object]) -> None:
    records = parse_records([raw_record(1), *raw])
    assert len(records.records) + len(records.rejected) == 1 + len(raw)


@given(value=JSON, key=st.sampled_from(sorted(raw_record())))
def test_arbitrary_fields_never_stop_the_load(value: object, key: str) -> None:
    records = parse_records([raw_record() | {key: value}, raw_record(2**62)])
    assert len(records.records) + len(records.rejected) == 2


def test_the_real_records_all_load(test_data: Path) -> None:
    raw = json.loads((test_data / "data" / "counterfact.json").read_text(encoding="utf-8"))
    records = parse_records(raw)
    assert records.rejected == ()
    assert len(records.records) == 1000
    first, theirs = records.records[0], raw[0]
    assert [p.prompt for p in first.probes["neighborhood"]] == theirs["neighborhood_prompts"]
    assert list(first.texts["generation"]) == theirs["generation_prompts"]
