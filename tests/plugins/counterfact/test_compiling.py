"""Compiled records are true, distinct and reproducible."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from compiling_samples import own_facts, pararel_facts
from hypothesis import given
from hypothesis import strategies as st

from editkit import DatasetError
from editkit.prompts import fill
from editkit.records.relations import (
    FactTable,
    Relation,
    RelationFact,
    RelationFile,
    read_relations,
    wording_of,
)
from editkit_plugins.counterfact.compiling.compiler import Compiler, RawRecord, Recipe
from editkit_plugins.counterfact.compiling.composition import composition
from editkit_plugins.counterfact.compiling.generation import (
    read_generation_prompts,
    shipped_generation_prompts,
)
from editkit_plugins.counterfact.dataset import parse_records

PREFIXES = ("It rained.", "The tailor slept.", "Nothing was said about Norway.")


def check(record: RawRecord, table: FactTable, recipe: Recipe) -> None:
    """What must hold of every record."""
    rewrite = record["requested_rewrite"]
    subject, relation = rewrite["subject"], rewrite["relation_id"]
    true, new = rewrite["target_true"]["str"], rewrite["target_new"]["str"]
    truths = table.truths[subject, relation]
    assert true in truths
    assert new not in truths
    assert rewrite["target_true"]["id"] != rewrite["target_new"]["id"]
    fact = next(f for f in table.of_subject[subject] if (f.relation, f.object) == (relation, true))
    assert rewrite["prompt"] in table.wordings(fact)
    filled = fill(rewrite["prompt"], subject)
    endings = [fill(w, subject) for w in table.rephrasings(fact) if w != rewrite["prompt"]]
    assert 1 <= len(record["paraphrase_prompts"]) <= recipe.paraphrases
    for prompt in record["paraphrase_prompts"]:
        result = [ending for ending in endings if prompt.endswith(ending)]
        assert result
        assert prompt != filled
        before = prompt.removesuffix(max(result, key=len)).strip()
        assert before in ("", *recipe.prefixes)
        assert not any(name in before for name in (subject, true, new))
    for key, value, rival in (
        ("neighborhood_prompts", true, new),
        ("attribute_prompts", new, true),
    ):
        prompts = record[key]
        assert len(set(prompts)) == len(prompts) <= recipe.neighbors
        others = {
            fill(wording, name)
            for name in table.holders[relation, value]
            if name != subject and rival not in table.truths[name, relation]
            for wording in table.relations[relation].wordings
        }
        assert set(prompts) <= others
        assert len(prompts) == min(recipe.neighbors, len(others))
    openings = {fill(opening, subject) for opening in table.relations[relation].generation}
    assert set(record["generation_prompts"]) <= openings
    assert len(record["generation_prompts"]) == (recipe.generations if openings else 0)
    for other in record["same_subject_prompts"]:
        assert other["relation_id"] != relation
        assert table.truths[subject, other["relation_id"]] == {other["target_true"]["str"]}
        assert other["target_other"]["str"] != other["target_true"]["str"]


@st.composite
def tables(draw: st.DrawFn) -> FactTable:
    names = st.sampled_from([f"name {letter}" for letter in "abcdefgh"])
    triples = draw(
        st.lists(
            st.tuples(names, st.sampled_from(["P1", "P2"]), st.sampled_from("xyz")),
            unique=True,
            min_size=4,
            max_size=30,
        )
    )
    relations = {
        name: Relation(
            name,
            tuple(f"{{}} {name} {i}:" for i in range(draw(st.integers(1, 3)))),
            ("{} goes on",) if draw(st.booleans()) else (),
        )
        for name in ("P1", "P2")
    }
    groups = {triple[0]: draw(st.sampled_from("gh")) for triple in triples}
    facts = tuple(
        RelationFact(subject, relation, value, place, group=groups[subject])
        for place, (subject, relation, value) in enumerate(triples)
    )
    return FactTable(relations, facts)


@given(
    table=tables(),
    seed=st.integers(0, 9),
    neighbors=st.integers(1, 4),
    prefixes=st.sampled_from([(), PREFIXES]),
    records=st.none() | st.integers(1, 5),
)
def test_invariants_of_every_record(
    table: FactTable, seed: int, neighbors: int, prefixes: tuple[str, ...], records: int | None
) -> None:
    recipe = Recipe(records=records, seed=seed, neighbors=neighbors, prefixes=prefixes)
    compiled = Compiler(table, recipe).compile()
    for record in compiled:
        check(record, table, recipe)
    assert [record["case_id"] for record in compiled] == list(range(len(compiled)))
    assert Compiler(table, recipe).compile() == compiled
    loaded = parse_records(compiled)
    assert len(loaded.records) == len(compiled)
    whole = Compiler(table, Recipe(seed=seed, neighbors=neighbors, prefixes=prefixes)).compile()
    assert compiled == whole[:records]  # records do not depend on how many are wanted


def read(path: Path, **options: Any) -> RelationFile:
    return read_relations(path, **{"generation": shipped_generation_prompts(), **options})


def table_of(content: dict[str, Any], folder: Path, **options: Any) -> FactTable:
    path = folder / "facts.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return read(path, **options).table


def test_new_objects_are_drawn_by_their_frequency(tmp_path: Path) -> None:
    facts = [RelationFact(f"a{i}", "P1", "here", i) for i in range(2000)]
    facts += [
        RelationFact(f"b{i}", "P1", "often" if i % 4 else "seldom", 2000 + i) for i in range(400)
    ]
    table = FactTable({"P1": Relation("P1", ("{} is", "It is {}:"))}, tuple(facts))
    compiled = Compiler(table, Recipe(neighbors=1)).compile()
    drawn = Counter(
        record["requested_rewrite"]["target_new"]["str"]
        for record in compiled
        if record["requested_rewrite"]["target_true"]["str"] == "here"
    )
    assert sum(drawn.values()) == 2000
    assert drawn["often"] / 2000 == pytest.approx(0.75, abs=0.05)  # five standard deviations


def test_new_objects_come_from_the_same_group() -> None:
    facts = [
        RelationFact(f"{group}{i}", "P1", f"{group} {i % 2}", 0, group=group)
        for group in ("car", "book")
        for i in range(6)
    ]
    table = FactTable({"P1": Relation("P1", ("{} is", "It is {}:"))}, tuple(facts))
    for record in Compiler(table, Recipe()).compile():
        rewrite = record["requested_rewrite"]
        assert rewrite["target_new"]["str"][:3] == rewrite["target_true"]["str"][:3]


def test_kept_records_are_renumbered(tmp_path: Path) -> None:
    table = table_of(own_facts(), tmp_path)
    compiler = Compiler(table, Recipe(records=4, first_case=50))
    kept = compiler.compile(
        lambda records: [r["requested_rewrite"]["relation_id"] == "P37" for r in records]
    )
    assert [record["case_id"] for record in kept] == [50, 51, 52, 53]
    assert {record["requested_rewrite"]["relation_id"] for record in kept} == {"P37"}


def test_records_with_too_few_neighbors_are_dropped(tmp_path: Path) -> None:
    table = table_of(own_facts(), tmp_path, only=("P17",))
    compiled = Compiler(table, Recipe(fewest_neighbors=9)).compile()
    objects = {record["requested_rewrite"]["target_true"]["str"] for record in compiled}
    assert objects == {"Norway", "Denmark"}  # 3 wordings of 2 neighbours are 6


# ---------------------------------------------------------------- layouts


def test_both_layouts_give_the_same_facts(tmp_path: Path) -> None:
    own, pararel = (
        table_of(content, tmp_path, generation={}) for content in (own_facts(), pararel_facts())
    )
    assert own.facts == pararel.facts
    for name, relation in own.relations.items():
        assert pararel.relations[name].wordings == relation.wordings
    assert own.relations["P17"].generation == ("Visitors of {} see", "Trains to {} cross")
    assert not pararel.relations["P17"].generation
    shipped = table_of(pararel_facts(), tmp_path)
    assert shipped.relations["P17"].generation == shipped_generation_prompts()["P17"]


@pytest.mark.parametrize(
    ("pattern", "wording"),
    [
        ("[X] is located in [Y] .", "{} is located in"),
        ("[X],  a type of [Y].", "{}, a type of"),
        ("the job of [X] is [Y]", "the job of {} is"),
        ("[Y] is where [X] is", None),
        ("[X] is a [Y] player.", None),
        ("[X] and [X] are in [Y].", None),
        ("[X] is in", None),
        ("[Y].", None),
    ],
)
def test_wordings_end_at_the_object(pattern: str, wording: str | None) -> None:
    assert wording_of(pattern) == wording


def test_broken_facts_are_reported_with_their_place_and_skipped(tmp_path: Path) -> None:
    content = own_facts()
    content["P17"]["facts"][1] = {"subject": "Bergen"}
    content["P17"]["facts"][2] = {"subject": "  ", "object": "Norway"}
    content["P17"]["facts"][3] = {"subject": "{}", "object": "Norway"}
    content["P37"]["facts"].append(dict(content["P37"]["facts"][0]))  # twice
    content["P5"] = {"wordings": ["no place"], "facts": []}
    content["P6"] = {"wordings": ["{} is in"], "facts": [{"subject": "a", "object": "b"}]}
    content["P7"] = 5
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    result = read(path)
    places = {rejected.field: rejected.reason for rejected in result.rejected}
    assert places.keys() == {
        "P17.facts[1].object",
        "P17.facts[2].subject",
        "P17.facts[3].subject",
        "P5.wordings[0]",
        "P7",
    }
    assert "is missing" in places["P17.facts[1].object"]
    assert result.unusable == ("P6",)
    assert result.no_generation == ()
    assert len(result.table.facts) == 9 + 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no relations"),
        ("{}", "holds no relations"),
        ('{"P1": {"wordings": ["{} is"], "facts": []}}', "no usable relation"),
        ('{"P1": {"wordings": ["it is"], "facts": []}}', "exactly one"),
        ("{", "is not JSON"),
        (None, "does not exist"),
    ],
)
def test_a_file_without_facts_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "facts.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=message) as caught:
        read(path)
    assert "facts.json" in caught.value.message
    assert caught.value.hint


def test_a_missing_relation_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no relation 'P99'"):
        table_of(own_facts(), tmp_path, only=("P17", "P99"))


def test_generation_prompts_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "openings.json"
    path.write_text(json.dumps({"P17": ["Roads to {} cross"]}), encoding="utf-8")
    openings = read_generation_prompts(path)
    assert table_of(pararel_facts(), tmp_path, generation=openings).relations["P17"].generation == (
        "Roads to {} cross",
    )
    path.write_text(json.dumps({"P17": ["Roads cross"]}), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"P17\[0\].*exactly one"):
        read_generation_prompts(path)


# ---------------------------------------------------------------- the real facts


def test_pararel_compiles(test_data: Path) -> None:
    result = read(test_data / "data" / "pararel.json")
    assert result.rejected == ()
    assert result.unusable == ("P1001", "P140", "P190", "P37")
    assert result.no_generation == ()
    recipe = Recipe(records=400, fewest_neighbors=10, prefixes=PREFIXES)
    compiled = Compiler(result.table, recipe).compile()
    assert len(compiled) == 400
    for record in compiled:
        check(record, result.table, recipe)
    loaded = parse_records(compiled)
    assert loaded.rejected == ()
    items = composition(loaded.records).items
    assert items["records"].total == items["counterfactual statements"].total == 400
    assert items["paraphrase prompts"].per_record == 2
    assert items["neighborhood prompts"].per_record == 10
    assert items["generation prompts"].per_record == pytest.approx(3, abs=0.3)


def test_composition_of_the_published_records(test_data: Path) -> None:
    """Their sample has what the paper's table says per record."""
    raw = json.loads((test_data / "data" / "counterfact.json").read_text(encoding="utf-8"))
    items = composition(parse_records(raw).records).items
    assert (items["records"].total, items["subjects"].total) == (1000, 995)
    per_record = {name: round(count.per_record) for name, count in items.items()}
    assert per_record["objects"] == per_record["counterfactual statements"] == 1
    assert per_record["paraphrase prompts"] == 2
    assert per_record["neighborhood prompts"] == 10
    assert per_record["generation prompts"] == 3
