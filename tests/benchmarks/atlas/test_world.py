"""The facts of the embedded world: enough of them, consistent, and each worded in many ways."""

from collections import Counter

import pytest

from editkit.cli.main import main
from editkit_benchmarks.atlas.world import HELD_OUT_PER_FACT, load_world

WORLD = load_world()
FACTS = list(WORLD.all_facts())


def test_world_is_large_enough() -> None:
    sizes = [len(facts) for facts in WORLD.facts.values()]
    assert len(WORLD.subjects) >= 1000
    assert len(FACTS) >= 3000
    assert len({fact.relation for fact in FACTS}) >= 10
    assert min(sizes) >= 2
    assert sum(size >= 3 for size in sizes) / len(sizes) >= 0.5


def test_ranks_are_a_ranking_and_countries_are_not_all_first() -> None:
    assert sorted(s.rank for s in WORLD.subjects.values()) == list(range(len(WORLD.subjects)))
    first = {s.type for s in WORLD.subjects.values() if s.rank < 200}
    assert len(first) >= 5


def object_of(subject: str, relation: str) -> str | None:
    fact = WORLD.facts.get(subject, {}).get(relation)
    return fact.object if fact else None


@pytest.mark.parametrize(
    ("first", "then", "direct"),
    [
        ("P131", "P17", "P17"),  # the country of the city is the country
        ("P17", "P30", "P30"),  # the continent of the country is the continent
        ("P17", "P37", "P37"),
        ("P131", "P30", "P30"),
        ("P159", "P17", "P495"),  # the country of the headquarters is where the company is from
    ],
)
def test_facts_that_belong_together_agree(first: str, then: str, direct: str) -> None:
    checked = 0
    for subject, facts in WORLD.facts.items():
        if first not in facts or direct not in facts:
            continue
        follows = object_of(facts[first].object, then)
        if follows is not None:
            assert facts[direct].object == follows, subject
            checked += 1
    assert checked >= 60


def test_every_capital_is_a_city_of_its_country() -> None:
    for subject, facts in WORLD.facts.items():
        if "P36" in facts:
            assert object_of(facts["P36"].object, "P17") == subject


def test_makers_of_products_are_companies_and_places_are_subjects() -> None:
    for fact in FACTS:
        if fact.relation == "P176":
            assert WORLD.subjects[fact.object].type == "company"
        if fact.relation in {"P131", "P159", "P19"}:
            assert WORLD.subjects[fact.object].type == "city"
        if fact.relation in {"P17", "P495"}:
            assert WORLD.subjects[fact.object].type == "country"


@pytest.mark.parametrize("relation", list(WORLD.relations.values()), ids=lambda r: r.id)
def test_wordings_leave_the_object_for_the_end(relation) -> None:
    every = relation.wordings + relation.generation
    assert len(relation.wordings) >= 5
    assert len(set(every)) == len(every)
    for wording in every:
        assert wording.count("{}") == 1
        assert wording == wording.strip()
    filled = [wording.format("X") for wording in every]
    for one in filled:
        assert not any(other != one and other.startswith(one) for other in filled)


def test_prompts_differ_and_have_subjects_at_the_start_and_in_the_middle() -> None:
    starts = [w.startswith("{}") for r in WORLD.relations.values() for w in r.wordings]
    assert 0.15 < sum(starts) / len(starts) < 0.85


def test_each_wording_is_held_out_for_some_and_seen_for_others() -> None:
    held = Counter((fact.relation, wording) for fact in FACTS for wording in fact.held_out)
    seen = Counter((fact.relation, wording) for fact in FACTS for wording in fact.seen)
    for relation in WORLD.relations.values():
        for wording in relation.wordings:
            assert held[relation.id, wording] > 0
            assert seen[relation.id, wording] > 0
    for fact in FACTS:
        assert len(fact.held_out) == HELD_OUT_PER_FACT
        assert not set(fact.held_out) & set(fact.seen)
        assert set(fact.held_out) | set(fact.seen) == set(WORLD.relations[fact.relation].wordings)


def test_objects_are_shared_by_enough_subjects() -> None:
    shared = [fact for fact in FACTS if len(WORLD.holders[fact.relation, fact.object]) >= 6]
    assert len(shared) / len(FACTS) > 0.7


def test_splits_are_disjoint_and_cover_all_frequencies() -> None:
    size = len(WORLD.subjects)
    for split in ("train", "test"):
        ranks = [s.rank for s in WORLD.subjects.values() if s.split == split]
        for quarter in range(4):
            inside = [r for r in ranks if quarter * size <= 4 * r < (quarter + 1) * size]
            assert 0.2 < len(inside) / len(ranks) < 0.3
    share = sum(s.split == "train" for s in WORLD.subjects.values()) / size
    assert 0.3 < share < 0.37


def test_facts_are_listed_as_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["atlas", "facts", "--subject", "einstein", "--relation", "native language"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    prompt, answer = line.split("   (")[0].split(" -> ")
    assert prompt.count("Albert Einstein") == 1
    assert answer == "German"
    assert main(["atlas", "facts", "--limit", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"... {len(FACTS) - 3} more")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--relation", "P0"], "P176 (maker)"),
        (["--subject", "nobody of that name"], "no subject with facts contains"),
        (["--limit", "0"], "expected 1 or more"),
    ],
)
def test_unknown_facts_are_reported(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["atlas", "facts", *arguments]) == 2
    assert message in capsys.readouterr().err
