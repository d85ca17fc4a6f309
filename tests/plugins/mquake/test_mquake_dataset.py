from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit import DatasetError, EditRequest, Records, make_dataset
from editkit.cli.main import main
from editkit.records.facts import read_facts
from editkit_plugins.mquake.dataset import parse_records
from tests.plugins.mquake.mquake_samples import raw_edit, raw_instance
from tests.plugins.mutations import check_read_or_rejected, json_values, mutations


def parse(*raw: object) -> Records:
    return parse_records(raw)


def test_an_instance_becomes_a_record_with_several_edits() -> None:
    (record,) = parse(raw_instance()).records
    assert record.case_id == 5
    assert record.requests == (
        EditRequest("{} stands in", "Den Norske Opera", "Bergen", "Oslo", "P1"),
        EditRequest("The mayor of {} is", "Bergen", "Ada Lovelace", "Marit Warncke", "P1"),
    )
    assert [probe.prompt for probe in record.probes["rewrite"]] == [
        "Den Norske Opera stands in",
        "The mayor of Bergen is",
    ]
    assert record.probes["paraphrase"][1].prompt == "Who is the mayor of Bergen?"
    assert record.spellings("Bergen") == ("Bergen", "Bjørgvin")
    assert record.spellings("Ada Lovelace") == ("Ada Lovelace", "Ada King", "Countess of Lovelace")
    assert record.spellings("Oslo") == ("Oslo", "Christiania")


def test_the_tests_of_an_instance() -> None:
    (record,) = parse(raw_instance()).records
    groups = record.consequences
    [multi_hop], [old] = groups["multi_hop"], groups["old_answer"]
    assert multi_hop.needs == "any"
    assert [each.prompt for each in multi_hop.questions] == raw_instance()["questions"]
    assert {each.answers for each in multi_hop.questions} == {
        (("Ada Lovelace", "Ada King", "Countess of Lovelace"),)
    }
    assert {each.answers for each in old.questions} == {(("Anne Lindboe", "A. Lindboe"),)}
    # Edited hops are asked by the prompts of their edits, the other one by its question.
    hops = [test.questions[0] for test in groups["single_hops"]]
    assert [each.prompt for each in hops] == [
        "Den Norske Opera stands in",
        "Where is Bergen?",
        "The mayor of Bergen is",
    ]
    assert multi_hop.conditions == (hops[1],)
    assert [test.questions[0].prompt for test in groups["original_hops"]] == [
        "Where is Den Norske Opera?",
        "Who is the mayor of Oslo?",
    ]


def test_optional_keys_may_be_missing_or_null() -> None:
    whole = raw_instance()
    optional = ("answer", "answer_alias", "new_answer_alias", "single_hops", "new_single_hops")
    for absent in ({}, dict.fromkeys((*optional, "orig"))):
        raw = {key: whole[key] for key in whole if key not in (*optional, "orig")} | absent
        for edit in raw["requested_rewrite"]:
            edit.update(question=None, relation_id=None, target_true=None)
        (record,) = parse(raw).records
        assert set(record.consequences) == {"multi_hop"}
        assert record.requests[0] == EditRequest("{} stands in", "Den Norske Opera", "Bergen")
        assert record.probes == {}


def test_mquake_t_has_more_answers_before_the_edit() -> None:
    for extended in (["Raymond Johansen"], [["Raymond Johansen"]], [{"name": "Raymond Johansen"}]):
        (record,) = parse(raw_instance() | {"answer_extended": extended}).records
        [old] = record.consequences["old_answer"]
        assert old.questions[0].answers == (("Anne Lindboe", "A. Lindboe", "Raymond Johansen"),)


def test_an_old_answer_that_is_also_a_new_one_is_not_asked_for() -> None:
    (record,) = parse(raw_instance() | {"answer_alias": ["Ada King"]}).records
    assert "old_answer" not in record.consequences


def test_repeated_and_blank_texts_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    raw = raw_instance()
    raw["new_answer_alias"] = ["Ada King", "", "  ", None, "Ada King", "Ada Lovelace"]
    raw["questions"] *= 2
    raw["requested_rewrite"] *= 2
    with caplog.at_level(logging.WARNING, "editkit_plugins"):
        (record,) = parse(raw).records
    [multi_hop] = record.consequences["multi_hop"]
    assert len(multi_hop.questions) == len(record.requests) == 2
    assert multi_hop.questions[0].answers == (("Ada Lovelace", "Ada King"),)
    assert "left out: 3 blank aliases (case 5, new_answer_alias[1]; case 5" in caplog.text


@pytest.mark.parametrize(
    ("subject", "prompt"),
    [
        ("Paris", "{} Hilton of Paris lives in"),  # twice in the prompt
        ("paris", "The PARIS of {} is"),
        ("Zoë 🇳🇴", "{} is from"),
        ("東京", "{}は"),
        ("القاهرة", "تقع {} في"),
        ("a {b} c", "{} is in"),
    ],
)
def test_subjects_in_any_script_are_found(subject: str, prompt: str) -> None:
    raw = raw_instance()
    raw["requested_rewrite"][0] |= {"subject": f" {subject} ", "prompt": prompt}
    (record,) = parse(raw).records
    start, end = record.request.subject_span
    assert record.request.sentence[start:end] == subject


@pytest.mark.parametrize(
    ("place", "value", "field", "reason"),
    [
        ("prompt", "Oslo stands in", "requested_rewrite[1].prompt", "holds 0 places"),
        ("prompt", "{} and {}", "requested_rewrite[1].prompt", "holds 2 places"),
        ("subject", "", "requested_rewrite[1].subject", "expected a text that is not empty"),
        ("subject", "{}", "requested_rewrite[1].subject", "with the mark"),
        ("target_new", {"str": ""}, "requested_rewrite[1].target_new.str", "not empty"),
        ("target_new", {"str": " Marit Warncke "}, "requested_rewrite[1].target_new.str",
         "the same as requested_rewrite[1].target_true.str"),
        ("target_new", None, "requested_rewrite[1].target_new", "is missing"),
        ("target_true", {"str": "\ud800"}, "requested_rewrite[1].target_true.str", "Unicode"),
    ],
)  # fmt: skip
def test_broken_edits_are_named(place: str, value: object, field: str, reason: str) -> None:
    raw = raw_instance()
    raw["requested_rewrite"][1][place] = value
    records = parse(raw, raw_instance(6))
    [rejected] = records.rejected
    assert (rejected.case_id, rejected.field) == ("5", field)
    assert reason in rejected.reason
    assert [record.case_id for record in records.records] == [6]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"requested_rewrite": []}, "requested_rewrite"),
        ({"requested_rewrite": None}, "requested_rewrite"),
        ({"questions": []}, "questions"),
        ({"questions": ["Who?", ""]}, "questions[1]"),
        ({"questions": ["Who is {}?"]}, "questions[0]"),
        ({"new_answer": ""}, "new_answer"),
        ({"new_answer": None}, "new_answer"),
        ({"new_answer_alias": "Ada"}, "new_answer_alias"),
        ({"new_answer_alias": [1984]}, "new_answer_alias[0]"),
        ({"new_single_hops": [{"answer": "Oslo"}]}, "new_single_hops[0].question"),
        ({"single_hops": [{"question": "Who?", "answer": ""}]}, "single_hops[0].answer"),
        ({"case_id": None}, "case_id"),
    ],
)
def test_broken_fields_are_named(change: dict[str, Any], field: str) -> None:
    [rejected] = parse(raw_instance() | change).rejected
    assert rejected.field.startswith(field)


def test_every_key_may_be_missing_or_of_another_type() -> None:
    for raw in mutations(raw_instance()):
        result = parse(raw)
        check_read_or_rejected(result)


@given(
    value=json_values(),
    key=st.sampled_from(sorted(raw_instance())),
)
def test_any_value_is_read_or_rejected(value: object, key: str) -> None:
    result = parse(raw_instance() | {key: value})
    assert len(result.records) + len(result.rejected) == 1


def test_a_single_edit_without_a_list_is_read() -> None:
    raw = raw_instance()
    raw["requested_rewrite"] = raw_edit("Oslo", "{} is in", "Where?", "Rome", "Norway")
    (record,) = parse(raw).records
    assert record.also == ()


def test_the_real_sample(test_data: Path) -> None:
    records = make_dataset("mquake", path=test_data / "data" / "mquake_sample.json").load()
    assert len(records.records) == 60
    assert records.rejected == ()
    for record in records.records:
        assert len(record.requests) == len(record.consequences["single_hops"]) == 4
        [multi_hop] = record.consequences["multi_hop"]
        assert len(multi_hop.questions) == 3
        assert multi_hop.conditions == ()  # every hop is edited
        prompts = {request.sentence for request in record.requests}
        assert {t.questions[0].prompt for t in record.consequences["single_hops"]} == prompts


def test_every_edit_is_a_fact_to_trace(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    path.write_text(json.dumps([raw_instance()]))
    facts = read_facts("mquake", {"path": str(path)})
    assert [(fact.prompt, fact.answer) for fact in facts.facts] == [
        ("Den Norske Opera stands in", "Oslo"),
        ("The mayor of Bergen is", "Marit Warncke"),
    ]


def test_a_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    path.write_text(json.dumps(raw_instance()))
    with pytest.raises(DatasetError, match="expected a list of records"):
        make_dataset("mquake", path=path).load()


def test_the_command_line_counts_blank_aliases_and_contradictions(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "records.json"
    blank = raw_instance(1) | {"new_answer_alias": [""]}
    other = raw_instance(2)
    other["requested_rewrite"][1]["target_new"] = {"str": "Kari Nordmann"}
    path.write_text(json.dumps([blank, other]))
    chosen = ("--dataset", "mquake", "--set", f"dataset.path={path}", "--metrics", "mquake")
    run = ("run-benchmark", "atlas", *chosen, "--editor", "memit", "--joint", "2", "--dry-run")
    assert main([*run, "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert "warning: left out: 1 blank alias (case 1, new_answer_alias[0])." in err
    assert (
        "warning: edits joint 2: contradicting edits of 2 records in one model, at 1 prompt, such "
        "as 'The mayor of Bergen is' -> 'Ada Lovelace' and 'Kari Nordmann' (cases 1, 2)"
    ) in err
    assert "2 records (4 edits) of mquake" in out
