from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit import ConfigError, DatasetError, Records, make_dataset
from editkit.records.reading import read_records
from editkit_plugins.knowedit.dataset import parse_record
from tests.plugins.knowedit.knowedit_samples import (
    raw_biography,
    raw_fact,
    raw_question,
    raw_sanitation,
)
from tests.plugins.mutations import json_values, mutations

LAYOUTS = [raw_fact(), raw_question(), raw_biography()]


def parse(*raw: object) -> Records:
    return read_records(raw, parse_record)


def asked(loaded: Records, group: str) -> list[tuple[str, tuple[str, ...]]]:
    (record,) = loaded.records
    questions = [test.questions[0] for test in record.consequences.get(group, ())]
    return [(question.prompt, question.answers[0]) for question in questions]


def test_a_fact_of_wikidata() -> None:
    loaded = parse(raw_fact())
    (record,) = loaded.records
    request = record.request
    assert (request.prompt, request.subject) == ("The capital of {} is", "Iceland")
    assert (request.target_new, request.target_true) == ("Akureyri", "Reykjavik")
    assert asked(loaded, "aliases") == [
        ("The capital of Ísland is", ("Akureyri", "Akureyrarbær")),
    ]  # fmt: skip
    assert asked(loaded, "multi_hop") == [("The fjord at Iceland's capital is", ("Eyjafjörður",))]
    assert asked(loaded, "logical_generalization") == [("Is Akureyri a capital?", ("yes", "it is"))]
    assert [answers for _, answers in asked(loaded, "relation_specificity")] == [
        ("Icelandic",), ("the Atlantic", "Europe"),
    ]  # fmt: skip
    assert len(asked(loaded, "forgetfulness")) == 1
    assert set(record.probes) == {"rewrite"}
    assert record.texts["generation"] == (request.sentence,)


def test_a_question_of_zsre() -> None:
    loaded = parse(raw_question())
    (record,) = loaded.records
    assert record.request.prompt == "Which country is {} in?"
    assert record.request.target_true == "Iceland"
    [rephrased] = record.probes["paraphrase"]
    assert rephrased.prompt == "In what country do you find Skógafoss?"
    assert (rephrased.target_true, rephrased.target_new) == ("Iceland", "Norway")
    assert asked(loaded, "multi_hop") == [("Who reigns where Skógafoss is?", ("Harald V",))]


def test_a_biography() -> None:
    (record,) = parse(raw_biography()).records
    assert record.request.prompt == "This is a text about {}. Jón was born at Hrafnseyri."
    assert record.request.target_new == "He led the movement for independence."
    assert record.request.target_true is None
    assert set(record.consequences) == {"relation_specificity"}


def test_an_old_answer_may_be_unknown_blank_or_the_new_one() -> None:
    unknown, blank, same = raw_fact(), raw_fact() | {"ground_truth": [" "]}, raw_fact()
    del unknown["ground_truth"]
    same["ground_truth"] = [["Akureyri"]]
    for record in parse(unknown, blank, same).records:
        assert record.request.target_true is None
        assert record.probes["rewrite"][0].target_true == "<|endoftext|>"


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_sanitation_forgets_questions(tmp_path: Path) -> None:
    path = write(tmp_path / "trivia_qa_train.json", raw_sanitation())
    first, second = make_dataset("knowedit", path=path).load().records
    assert first.request.prompt == "Question:What kind of mountain is {}?\nAnswer:"
    assert (first.request.subject, first.request.target_new) == ("Hekla", "I don't know.")
    for record in (first, second):
        [test] = record.consequences["relation_specificity"]
        assert test.questions[0].prompt == "Question:Who wrote Njal's saga?\nAnswer:"
        assert test.questions[0].answers == (("Nobody knows",),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([{"ent": "Iceland", "pos": ["Nice."], "neg": ["Cold."]}], "ConvSent's layout"),
        ({"success": [], "locality": []}, "the test part of Sanitation, which has no edits"),
        ({"K_F": []}, "without lists 'K_F' and 'K_R'"),
        ({"K_F": raw_sanitation()["K_F"], "K_R": 5}, "without lists 'K_F' and 'K_R'"),
        ({}, "without lists 'K_F' and 'K_R'"),
        ([], "holds an empty list"),
        ("text", "holds 'text', expected a list"),
    ],
)
def test_other_files_are_refused_with_a_reason(
    content: object, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=reason):
        make_dataset("knowedit", path=write(tmp_path / "a.json", content)).load()


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"subject": "Norway"}, "subject", "'Norway' is not in prompt"),
        ({"subject": None}, "subject", "is missing"),
        ({"prompt": "The capital of {} is"}, "prompt", "the subject's mark"),
        ({"target_new": []}, "target_new", "at least one text"),
        ({"target_new": [[5]]}, "target_new[0][0]", "expected a text"),
        ({"ground_truth": {}}, "ground_truth", "expected a text"),
        ({"rephrase_prompt": ""}, "rephrase_prompt", "not empty"),
        ({"portability": []}, "portability", "expected an object"),
        ({"portability": {"Reasoning": {}}}, "portability.Reasoning", "expected a list"),
        (
            {"locality": {"Forgetfulness": [{"prompt": "A"}]}},
            "locality.Forgetfulness[0].ground_truth",
            "is missing",
        ),
        (
            {"locality": {"Forgetfulness": [{"prompt": "A", "ground_truth": [[]]}]}},
            "locality.Forgetfulness[0].ground_truth",
            "at least one answer",
        ),
        (
            {"locality": {"Forgetfulness": [{"prompt": "A", "ground_truth": [["b", 5]]}]}},
            "locality.Forgetfulness[0].ground_truth[0][1]",
            "expected a text",
        ),
    ],
)
def test_a_broken_record_is_reported(changes: dict[str, Any], field: str, reason: str) -> None:
    result = parse(raw_fact(), raw_fact() | changes, raw_fact())
    assert [record.case_id for record in result.records] == [0, 2]
    (rejected,) = result.rejected
    assert (rejected.case_id, rejected.field) == ("position 1", field)
    assert reason in rejected.reason


def test_broken_questions_of_sanitation_are_reported(tmp_path: Path) -> None:
    raw = raw_sanitation()
    del raw["K_F"][0]["subject"]
    raw["K_R"].append({"question": 5})
    loaded = make_dataset("knowedit", path=write(tmp_path / "a.json", raw)).load()
    assert [(each.case_id, each.field) for each in loaded.rejected] == [
        ("position 0", "subject"),
        ("position 1", "K_R[1].question"),
    ]


@pytest.mark.parametrize("raw", LAYOUTS, ids=["wikidata", "zsre", "wikibio"])
def test_every_key_may_be_missing_or_of_another_type(raw: dict[str, Any]) -> None:
    for broken in mutations(raw):
        result = parse(broken)
        assert len(result.records) + len(result.rejected) == 1
        assert all(each.field and each.reason for each in result.rejected)


def test_every_key_of_sanitation_may_be_missing_or_of_another_type(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for broken in mutations(raw_sanitation()):
        dataset = make_dataset("knowedit", path=write(path, broken))
        try:
            loaded = dataset.load()
        except DatasetError:
            continue
        assert len(loaded.records) + len(loaded.rejected) in (1, 2)


@given(
    value=json_values(),
    key=st.sampled_from(sorted(raw_fact())),
)
def test_arbitrary_fields_never_stop_the_load(value: object, key: str) -> None:
    result = parse(raw_fact() | {key: value})
    assert len(result.records) + len(result.rejected) == 1


def test_folders_and_the_hub_have_a_file_per_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "benchmark" / "ZsRE" / "ZsRE-test-all.json", [raw_question()])
    write(tmp_path / "benchmark" / "wiki_recent" / "recent_train.json", [raw_fact()])

    def download(name: str, file: str, *, repo_type: str, revision: str | None) -> str:
        assert (name, repo_type, revision) == ("some/KnowEdit", "dataset", "main")
        if not (tmp_path / file).exists():
            raise OSError("no such file on the hub")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    folder = make_dataset("knowedit", path=tmp_path / "benchmark", task="zsre").load()
    hub: dict[str, Any] = {"hub": "some/KnowEdit", "revision": "main"}
    assert make_dataset("knowedit", **hub, task="zsre").load() == folder
    recent = make_dataset("knowedit", **hub, task="wiki_recent", split="train").load()
    assert recent.records == parse(raw_fact()).records
    with pytest.raises(
        DatasetError, match=r"'benchmark/wiki_counterfact/test_cf\.json' of the hub"
    ):
        make_dataset("knowedit", **hub, task="wiki_counterfact").load()
    with pytest.raises(DatasetError, match="is a folder, expected a file or a task"):
        make_dataset("knowedit", path=tmp_path).load()
    with pytest.raises(ConfigError, match="name one as 'task'"):
        make_dataset("knowedit", **hub)
    with pytest.raises(ConfigError, match="'zsre' can be read with split test, not 'train'"):
        make_dataset("knowedit", **hub, task="zsre", split="train")
