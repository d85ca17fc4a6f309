from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit import DatasetError, Records, make_dataset
from editkit.records.reading import read_records
from editkit_plugins.ripple_edits.dataset import GROUPS, parse_record
from editkit_plugins.ripple_edits.statements import Evidence, readings, settled
from tests.plugins.mutations import check_read_or_rejected, json_values, mutations
from tests.plugins.ripple_edits.ripple_samples import raw_example, raw_query, raw_test


def parse(*raw: object) -> Records:
    return read_records(raw, parse_record)


def edited(**changes: Any) -> dict[str, Any]:
    raw = raw_example()
    raw["edit"] |= changes
    return raw


def test_an_example_becomes_an_edit_with_consequences() -> None:
    (record,) = parse(raw_example()).records
    request = record.request
    assert request.prompt == "The name of the capital city of {} is"
    assert (request.subject, request.target_new, request.target_true) == (
        "Norway",
        "Bergen",
        "Oslo",
    )
    assert request.relation_id == "CAPITAL"
    assert record.spellings("Bergen") == ("Bergen", "Bjørgvin")
    assert [each.prompt for each in record.probes["rewrite"]] == [request.sentence]
    assert set(record.consequences) == set(GROUPS.values())
    [inverse] = record.consequences["logical_generalization"]
    assert (inverse.needs, len(inverse.questions), inverse.conditions) == ("all", 2, ())
    [kept] = record.consequences["relation_specificity"]
    assert kept.needs == "any"
    assert kept.questions == kept.conditions
    assert kept.questions[0].answers == (("Europe", "European continent"),)


@pytest.mark.parametrize(
    ("relation", "sentence", "prompt", "subject", "target"),
    [
        ("MOTHER", "The name of the mother of Ada Lovelace is Anne Isabella Milbanke.",
         "The name of the mother of {} is", "Ada Lovelace", "Anne Isabella Milbanke"),
        ("PLACE_OF_BIRTH", "The place of birth of Isaac of Nineveh is Beth Qatraye.",
         "The place of birth of {} is", "Isaac of Nineveh", "Beth Qatraye"),
        ("EMPLOYER", "The name of the employer of Kari Nordmann is Equinor Inc..",
         "The name of the employer of {} is", "Kari Nordmann", "Equinor Inc."),
        ("SIBLING", "The names of the siblings of Emily Brontë are Anne Brontë.",
         "The names of the siblings of {} are", "Emily Brontë", "Anne Brontë"),
        ("COUNTRY", "The name of the country which Lake Inari is associated with is Finland.",
         "The name of the country which {} is associated with is", "Lake Inari", "Finland"),
        ("FOLLOWED_BY", "June is followed by July.", "{} is followed by", "June", "July"),
        ("CURRENCY", "The name of the currency in Norway is Norwegian krone.",
         "The name of the currency in {} is", "Norway", "Norwegian krone"),
    ],
)  # fmt: skip
def test_a_sentence_is_taken_apart(
    relation: str, sentence: str, prompt: str, subject: str, target: str
) -> None:
    [reading] = readings(sentence, relation)
    assert (reading.template, reading.subject, reading.target) == (prompt, subject, target)


SENTENCE = "The name of the author of What is Art is It is Tolstoy."
RIGHT = ("What is Art", "It is Tolstoy")


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (Evidence(), None),
        (Evidence(prompts=["The name of the author of What is Art is"]), RIGHT),
        (Evidence(targets=["It is Tolstoy", "Tolstoi"]), RIGHT),
        (Evidence(old="The name of the author of What is Art is Bob."), None),  # "What" fits, too
        (Evidence(about_subject=[("EDITOR", "The name of the editor of What is Art is")]), RIGHT),
        (Evidence(about_subject=[("EDITOR", "Who edited it?")], targets=["x"]), None),
    ],
)
def test_the_rest_of_the_example_decides_between_readings(
    evidence: Evidence, expected: tuple[str, str] | None
) -> None:
    possible = readings(SENTENCE, "AUTHOR")
    assert len(possible) == 3
    left = [(each.subject, each.target) for each in settled(possible, evidence)]
    assert (left == [expected]) if expected else (len(left) > 1 and RIGHT in left)


def test_other_wordings_name_their_subject_and_object() -> None:
    raw = edited(
        prompt="In Norway, the government sits in Bergen", subject="Norway", target="Bergen"
    )
    raw["edit"]["original_fact"]["prompt"] = "In Norway, the government sits in Oslo"
    (record,) = parse(raw).records
    request = record.request
    assert (request.prompt, request.target_true) == ("In {}, the government sits in", "Oslo")


def test_an_example_without_a_known_old_fact() -> None:
    recent, blank, same = edited(), edited(), edited()
    del recent["edit"]["original_fact"]
    blank["edit"]["original_fact"]["prompt"] = "The name of the capital city of Norway is ."
    same["edit"]["original_fact"]["prompt"] = same["edit"]["prompt"]
    for record in parse(recent, blank, same).records:
        assert record.request.target_true is None
        assert record.probes == {}
    renamed = edited()
    renamed["edit"]["previous_fact"] = renamed["edit"].pop("original_fact")
    assert parse(renamed).records[0].request.target_true == "Oslo"


def test_the_readme_spells_one_criterion_otherwise() -> None:
    raw = raw_example()
    raw["Relation_Specifity"] = raw.pop("Relation_Specificity")
    assert parse(raw).records == parse(raw_example()).records


def test_a_test_with_a_question_that_has_no_answer_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = raw_example()
    raw["Subject_Aliasing"].append(raw_test(raw_query("The capital of Norge is", ["", " "])))
    raw["Forgetfulness"] = [raw_test(raw_query("A city is", ["Oslo"]), before=(raw_query("A"),))]
    path = tmp_path / "popular.json"
    path.write_text(json.dumps([raw]), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        (record,) = make_dataset("ripple-edits", path=path).load().records
    assert len(record.consequences["aliases"]) == 1
    assert "forgetfulness" not in record.consequences
    [message] = [each.getMessage() for each in caplog.records]
    assert message == (
        "2 tests are left out because a question has no answer; the first is "
        "position 0: Subject_Aliasing[1]"
    )


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        (
            {"prompt": "Norway's capital is Bergen."},
            "edit.prompt",
            "is not the phrase of 'CAPITAL'",
        ),
        (
            {"prompt": "The name of the capital city of Norway is ."},
            "edit.prompt",
            "not the phrase",
        ),
        ({"prompt": "The name of the capital city of {} is B."}, "edit.prompt", "subject's mark"),
        ({"relation": "CAPITALS"}, "edit.prompt", "not the phrase of 'CAPITALS'"),
        ({"relation": None}, "edit.relation", "is missing"),
        ({"target_id": ["Q1"]}, "edit.target_id", "expected an id"),
        ({"original_fact": {"prompt": "Oslo."}}, "edit.original_fact.prompt", "does not begin"),
        ({"subject": "Norway"}, "edit.target", "is missing"),
        ({"subject": "Sweden", "target": "Bergen"}, "edit.subject", "is not in prompt"),
        ({"subject": "Norway", "target": "Oslo"}, "edit.target", "is not at the end of prompt"),
    ],
)
def test_a_broken_edit_is_reported(changes: dict[str, Any], field: str, reason: str) -> None:
    result = parse(raw_example(), edited(**changes), raw_example())
    assert [record.case_id for record in result.records] == [0, 2]
    (rejected,) = result.rejected
    assert (rejected.case_id, rejected.field) == ("position 1", field)
    assert reason in rejected.reason


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"test_queries": []}, "test_queries", "at least one query"),
        ({"test_condition": "XOR"}, "test_condition", "expected 'OR' or 'AND'"),
        ({"test_condition": ["OR"]}, "test_condition", "expected 'OR' or 'AND'"),
        ({"test_queries": [raw_query("", ["a"])]}, "test_queries[0].prompt", "not empty"),
        ({"condition_queries": 5}, "condition_queries", "expected a list"),
        ({"condition_queries": [{"prompt": "A"}]}, "condition_queries[0].answers", "is missing"),
    ],
)
def test_a_broken_test_is_reported(changes: dict[str, Any], field: str, reason: str) -> None:
    raw = raw_example()
    raw["Forgetfulness"].append(raw["Forgetfulness"][0] | changes)
    (rejected,) = parse(raw).rejected
    assert rejected.field == f"Forgetfulness[1].{field}"
    assert reason in rejected.reason


def test_a_record_of_another_layout_is_reported() -> None:
    (rejected,) = parse({"edit": raw_example()["edit"]}).rejected
    assert "has none of the criteria Logical_Generalization" in rejected.reason


def test_every_key_may_be_missing_or_of_another_type() -> None:
    for raw in mutations(raw_example()):
        result = parse(raw)
        check_read_or_rejected(result)


@given(
    value=json_values(),
    key=st.sampled_from(sorted(raw_example())),
)
def test_arbitrary_fields_never_stop_the_load(value: object, key: str) -> None:
    result = parse(raw_example() | {key: value})
    assert len(result.records) + len(result.rejected) == 1


def test_subsets_are_chosen_by_type_or_by_file(tmp_path: Path) -> None:
    recent = raw_example() | {"example_type": "recent"}
    unnamed = raw_example() | {"example_type": "counter_fact"}
    path = tmp_path / "all.json"
    path.write_text(json.dumps([recent, raw_example(), unnamed]), encoding="utf-8")
    loaded = make_dataset("ripple-edits", path=path, subset="popular").load()
    assert len(loaded.records) == 1
    [rejected] = loaded.rejected
    assert (rejected.field, rejected.reason) == (
        "example_type", "is 'counter_fact', expected 'popular'",
    )  # fmt: skip
    (tmp_path / "random.json").write_text(json.dumps([raw_example()]), encoding="utf-8")
    assert len(make_dataset("ripple-edits", path=tmp_path, subset="random").load().records) == 1
    with pytest.raises(DatasetError, match="is a folder, expected a file or a subset"):
        make_dataset("ripple-edits", path=tmp_path).load()
    with pytest.raises(DatasetError, match=r"popular\.json' does not exist"):
        make_dataset("ripple-edits", path=tmp_path, subset="popular").load()
    path.write_text(json.dumps([recent]), encoding="utf-8")
    with pytest.raises(DatasetError, match="no example of the subset 'random'"):
        make_dataset("ripple-edits", path=path, subset="random").load()
