"""Tests of consequences in atlas' records: what the world implies, in its own wordings."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from editkit_benchmarks.atlas import records_path
from editkit_benchmarks.atlas.consequences import DERIVED
from editkit_benchmarks.atlas.world import load_world

WORLD = load_world()
MEANING = {
    wording.format(subject): (subject, fact.relation)
    for subject, facts in WORLD.facts.items()
    for fact in facts.values()
    for wording in fact.seen
}
"""Prompt in a wording of the training text -> subject and relation."""


def meaning(question: dict[str, Any]) -> tuple[str, str, str]:
    """Subject, relation and wanted object of a question."""
    [[answer]] = question["answers"]
    return (*MEANING[question["prompt"]], answer)


def all_tests(split: str, group: str) -> list[tuple[tuple[str, str, str], dict[str, Any]]]:
    """Each test with its record's edit: subject, relation, new object."""
    tests = []
    for record in json.loads(records_path(split).read_text(encoding="utf-8")):
        rewrite = record["requested_rewrite"]
        edit = rewrite["subject"], rewrite["relation_id"], rewrite["target_new"]["str"]
        tests += [(edit, test) for test in record.get("consequences", {}).get(group, ())]
    return tests


@pytest.fixture(scope="module", params=["test", "train"])
def split(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("rule", DERIVED)
def test_the_world_keeps_every_rule(rule: Any) -> None:
    checked = 0
    for name, facts in WORLD.facts.items():
        if WORLD.subjects[name].type == rule.type and {rule.via, rule.relation} <= set(facts):
            source = WORLD.facts.get(facts[rule.via].object, {})
            if rule.of in source:
                assert facts[rule.relation].object == source[rule.of].object, name
                checked += 1
    assert checked > 30


def test_the_new_object_implies_other_facts_of_the_subject(split: str) -> None:
    tests = all_tests(split, "compositionality_1")
    assert len(tests) >= 50
    for (subject, relation, new), test in tests:
        [question], [condition] = test["questions"], test["conditions"]
        about, derived, answer = meaning(question)
        source, of, known = meaning(condition)
        assert about == subject
        assert source == new
        assert answer == known == WORLD.facts[new][of].object
        assert answer != WORLD.facts[subject][derived].object
        rules = [rule for rule in DERIVED if rule.type == WORLD.subjects[subject].type]
        assert (derived, relation, of) in {(rule.relation, rule.via, rule.of) for rule in rules}


def test_an_edit_reaches_other_subjects(split: str) -> None:
    tests = all_tests(split, "compositionality_2")
    assert len(tests) >= 50
    for (subject, relation, new), test in tests:
        [question], [condition] = test["questions"], test["conditions"]
        about, derived, answer = meaning(question)
        through, via, known = meaning(condition)
        assert through == about != subject
        assert known == WORLD.facts[about][via].object == subject
        assert answer == new != WORLD.facts[about][derived].object
        rules = [rule for rule in DERIVED if rule.type == WORLD.subjects[about].type]
        assert (derived, via, relation) in {(rule.relation, rule.via, rule.of) for rule in rules}
    per_edit = Counter(edit for edit, _ in tests)
    assert max(per_edit.values()) == 4


def test_unrelated_facts_of_the_subject_stay(split: str) -> None:
    tests = all_tests(split, "relation_specificity")
    assert len(tests) >= 500
    for (subject, relation, _), test in tests:
        assert test["questions"] == test["conditions"]
        about, other, answer = meaning(test["questions"][0])
        assert (about, answer) == (subject, WORLD.facts[subject][other].object)
        kind = WORLD.subjects[subject].type
        tied = {frozenset((rule.relation, rule.via)) for rule in DERIVED if rule.type == kind}
        assert other != relation
        assert {other, relation} not in tied


def test_train_asks_about_subjects_of_its_own_split() -> None:
    for group in ("compositionality_1", "compositionality_2", "relation_specificity"):
        for _, test in all_tests("train", group):
            for question in (*test["questions"], *test["conditions"]):
                assert WORLD.subjects[meaning(question)[0]].split == "train"


def test_a_moved_head_office_does_not_change_where_a_firm_began() -> None:
    tests = all_tests("test", "compositionality_1")
    origins = [
        test["questions"][0]["prompt"] for (_, relation, _), test in tests if relation == "P159"
    ]
    assert len(origins) > 20
    assert not [prompt for prompt in origins if "began" in prompt or "was born" in prompt]
