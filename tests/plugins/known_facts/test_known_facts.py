"""``editkit known-facts``: which facts are known, and that every layout is read again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from editkit import Fact, load_model, make_dataset
from editkit.cli.main import main
from editkit.editing.known import recall
from editkit.records.facts import read_facts
from editkit.records.relations import read_relations
from editkit_plugins.known_facts import collecting
from editkit_plugins.known_facts.collecting import text_before

ATLAS_RECORDS = Path(__file__).resolve().parents[3] / "benchmarks" / "atlas" / "records"


def known_facts(*arguments: object) -> int:
    return main(["known-facts", "--model", "atlas", "--quiet", *map(str, arguments)])


def content(name: str) -> Any:
    return json.loads(Path(name).read_text(encoding="utf-8"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- when a fact is known


def test_a_fact_is_known_if_the_model_writes_its_object() -> None:
    model = load_model("atlas")
    facts = [
        Fact(record.request.sentence, record.request.subject, record.request.target_true)
        for record in make_dataset("atlas").load().records[:12]
    ]
    facts.append(Fact("Rome is in", "Rome"))
    recalls = recall(model, facts, batch=7)
    assert "has no answer" in recalls.pop().problem
    assert 0 < sum(each.predicted for each in recalls) < len(recalls)
    for fact, each in zip(facts, recalls, strict=False):
        ids = model.tokenizer(fact.prompt, return_tensors="pt")
        written = model.hf.generate(**ids, do_sample=False, max_new_tokens=8, pad_token_id=0)
        text = model.tokenizer.decode(written[0, ids["input_ids"].shape[1] :])
        assert text.startswith(f" {fact.answer}") == each.predicted
        assert (each.probability > 0.01) >= each.predicted


@pytest.mark.parametrize(
    ("answer", "text", "before"),
    [
        ("Antarctica", " of Antarctica. It is", " of "),
        ("Apple", " Apple, which owns Beats", " "),
        ("Apple", " the company Beats, owned by Apple", None),
        ("Apple", " Apples and pears", None),
        ("Apple", " a fruit", None),
        ("piano", " the piano and Élan", " the "),
        ("piano", " Élan on the piano", None),
        ("C++", " in C++.", " in "),
        ("北京", " 在 北京", " 在 "),
    ],
)
def test_the_object_comes_before_any_other_capitalised_word(
    answer: str, text: str, before: str | None
) -> None:
    assert text_before(answer, text) == before


def test_the_rule_gives_the_prompts_of_the_published_facts(test_data: Path) -> None:
    """``known_1000.json`` has the greedy texts of GPT-2 XL and the prompts made of them."""
    entries = json.loads((test_data / "data" / "known_1000.json").read_text(encoding="utf-8"))
    odd = 0
    for entry in entries:
        before = text_before(entry["attribute"], entry["prediction"])
        odd += before is None  # the object continues within a word
        if before is not None:
            template = entry["template"].replace("{}", entry["subject"])
            assert f"{template}{before}".rstrip() == entry["prompt"].rstrip()
    assert len(entries) == 1209
    assert odd == 6


def test_the_first_named_object_extends_the_prompt(here: Path) -> None:
    """ "The continent that holds" is continued with "... is Africa"."""
    [record] = [
        each for each in make_dataset("atlas").load().records if each.request.subject == "Nairobi"
    ][:1]
    prompt = record.request.sentence.removesuffix(" is")
    assert prompt == "The continent that holds Nairobi"
    fact = {"prompt": prompt, "subject": "Nairobi", "answer": "Africa", "relation_id": "P30"}
    Path("facts.json").write_text(json.dumps([fact]), encoding="utf-8")
    assert known_facts("--facts", "facts.json", "--rule", "predicted") == 2
    layouts = ["--layout", "prompts,relations"]
    assert known_facts("--facts", "facts.json", "--rule", "first-named", *layouts) == 0
    [known] = content("known.prompts.json")
    assert known["prompt"] == "The continent that holds Nairobi is"
    assert known["template"] == "The continent that holds {}"
    assert known["prediction"].startswith(" is Africa")
    [of_relation] = content("known.relations.json")["P30"]["facts"]
    assert of_relation["wordings"] == ["The continent that holds {} is"]
    assert known_facts("--facts", "facts.json", "--rule", "first-named", "--chat") == 2


# ---------------------------------------------------------------- layouts


def test_every_layout_is_read_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--facts", "atlas", "--limit", 60, "--layout", "counterfact,prompts,relations"]
    assert known_facts(*arguments, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["asked"] == 60
    assert 40 < document["known"] < 60
    assert sum(each["known"] for each in document["relations"].values()) == document["known"]
    asked = make_dataset("atlas").load().records[:60]
    recalls = recall(load_model("atlas"), [_fact(record) for record in asked])
    records = [record for record, each in zip(asked, recalls, strict=True) if each.predicted]
    written = make_dataset("counterfact", path="known.counterfact.json").load()
    assert not written.rejected
    assert [each.request for each in written.records] == [each.request for each in records]
    assert [each.probes for each in written.records] == [each.probes for each in records]
    prompts = read_facts("known.prompts.json")
    assert list(prompts.facts) == [_fact(record) for record in records]
    assert content("known.prompts.json")[0]["known"]["fingerprint"] == document["fingerprint"]
    relations = read_relations(Path("known.relations.json"), fewest_wordings=1)
    assert not relations.rejected
    assert len(relations.table.facts) == len(records)
    assert set(read_facts("known.relations.json").facts) == set(prompts.facts)
    compiled = ["--facts", "known.relations.json", "--out", "compiled.json"]
    assert main(["compile-dataset", *compiled, "--fewest-neighbors", "1"]) == 0
    sentences = {fact.prompt for fact in prompts.facts}
    for record in make_dataset("counterfact", path="compiled.json").load().records:
        assert record.request.sentence in sentences


def _fact(record: Any) -> Fact:
    request = record.request
    return Fact(request.sentence, request.subject, request.target_true)


def test_a_file_of_records_keeps_its_own_entries(here: Path) -> None:
    shutil.copy(ATLAS_RECORDS / "test.json", "records.json")
    entries = content("records.json")[:20]
    entries[0]["pararel_idx"] = 7
    Path("records.json").write_text(json.dumps(entries), encoding="utf-8")
    assert known_facts("--facts", "records.json", "--layout", "counterfact") == 0
    known = content("known.json")
    assert all(each.pop("known")["probability"] > 0 for each in known)
    assert 0 < len(known) < 20
    assert all(each in entries for each in known)


def test_relations_are_asked_in_several_wordings(here: Path) -> None:
    world = {
        "P30": {
            "patterns": [
                {"pattern": "Of [X] nobody knows why [Y] ."},
                {"pattern": "The continent that holds [X] is [Y] ."},
            ],
            "facts": [{"sub_label": "Nairobi", "obj_label": "Africa"}],
        }
    }
    Path("world.json").write_text(json.dumps(world), encoding="utf-8")
    assert known_facts("--facts", "world.json") == 2
    assert known_facts("--facts", "world.json", "--wordings", 2, "--layout", "relations") == 0
    [fact] = content("known.json")["P30"]["facts"]
    assert fact["wordings"] == ["The continent that holds {} is"]
    assert len(fact["rephrasings"]) == 2


# ---------------------------------------------------------------- draws and the cache


def test_draws_depend_on_the_seed_and_answers_are_cached(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ["--facts", "atlas", "--per-relation", 3, "--records", 20, "--batch", 16]
    assert known_facts(*few) == 0
    first = Path("known.json").read_bytes()
    known = content("known.json")
    assert len(known) == 20
    relations = [each["relation_id"] for each in known]
    assert max(map(relations.count, relations)) <= 3
    assert known_facts(*few, "--seed", 1, "--out", "other.json") == 0
    assert content("other.json") != known
    monkeypatch.setattr(collecting, "recall", None)  # everything is cached
    assert known_facts(*few) == 0
    assert Path("known.json").read_bytes() == first
    assert known_facts(*few, "--min-probability", 0.5, "--layout", "relations") == 0


def test_ctrl_c_keeps_the_answers(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["--facts", "atlas", "--limit", 96, "--batch", 8]
    asked: list[int] = []

    def interrupted(model: Any, facts: Any, **options: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(facts))
        return recall(model, facts, **options)

    monkeypatch.setattr(collecting, "recall", interrupted)
    assert known_facts(*few) == 130
    assert not Path("known.json").exists()
    rest: list[int] = []

    def counted(model: Any, facts: Any, **options: Any) -> Any:
        rest.append(len(facts))
        return recall(model, facts, **options)

    monkeypatch.setattr(collecting, "recall", counted)
    assert known_facts(*few) == 0
    assert sum(asked) + sum(rest) == 96
    assert sum(rest) < 96


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--facts", "absent.json"], "'absent.json' does not exist"),
        (["--facts", "empty.json"], "no valid fact"),
        (["--facts", "facts.json"], "knows none of the 1 facts"),
        (["--facts", "facts.json"], "Try --rule first-named"),
        (["--facts", "facts.json", "--layout", "relations"], "have no relations"),
        (["--facts", "facts.json", "--layout", "counterfact"], "compile-dataset --facts"),
        (["--facts", "atlas-zsre", "--layout", "counterfact"], "no records in CounterFact's"),
        (["--facts", "atlas", "--layout", "prompt"], "Did you mean 'prompts'?"),
        (["--facts", "atlas", "--relations", "P190"], "Did you mean 'P19'?"),
        (["--facts", "atlas", "--rule", "first"], "expected one of"),
        (["--facts", "atlas", "--min-probability", "2"], "a number from 0 to 1"),
        (["--facts", "atlas", "--set", "layer=2"], "--set layer sets nothing here"),
        (["--facts", "facts.json", "--out", "facts.json"], "overwrite the input"),
        (["--facts", "facts.json", "--out", "."], "is a folder"),
    ],
)
def test_errors_say_what_to_do(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fact = {"prompt": "Nobody knows Xyz of", "subject": "Xyz", "answer": "Quux"}
    Path("facts.json").write_text(json.dumps([fact]), encoding="utf-8")
    Path("empty.json").write_text("[]", encoding="utf-8")
    assert known_facts(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "hint:" in err
    assert not Path("known.json").exists()
