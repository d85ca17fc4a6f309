"""The records: schema, true facts, disjoint splits, and files equal to their source."""

import json
from collections import Counter

import pytest

from editkit_benchmarks.atlas import essence_path, records_path, reference_texts_path
from editkit_benchmarks.atlas.records import build_records, render_files
from editkit_benchmarks.atlas.world import load_world

WORLD = load_world()
SCHEMA = {
    "case_id",
    "pararel_idx",
    "requested_rewrite",
    "paraphrase_prompts",
    "neighborhood_prompts",
    "attribute_prompts",
    "generation_prompts",
    "same_subject_prompts",
}


def subjects_named(prompts: list[str], relation: str) -> set[str]:
    """Find whose prompts these are, by filling every wording with every subject."""
    filled = {
        wording.format(name): name
        for wording in WORLD.relations[relation].wordings
        for name, facts in WORLD.facts.items()
        if relation in facts
    }
    return {filled[prompt] for prompt in prompts}


@pytest.fixture(scope="module", params=["test", "train"])
def split(request) -> str:
    return request.param


def test_shipped_files_equal_the_rebuilt_ones() -> None:
    for name, content in render_files().items():
        shipped = (records_path().parent / name).read_text(encoding="utf-8")
        assert shipped == content, f"{name} is out of date: run 'editkit atlas build'"
    assert reference_texts_path().is_file()
    assert essence_path().is_file()


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="validation"):
        records_path("validation")
    with pytest.raises(ValueError, match="validation"):
        build_records("validation")


def test_schema(split: str) -> None:
    records = json.loads(records_path(split).read_text(encoding="utf-8"))
    assert len(records) >= {"test": 800, "train": 500}[split]
    assert len({record["case_id"] for record in records}) == len(records)
    for record in records:
        assert set(record) - {"consequences"} == SCHEMA
        assert isinstance(record["case_id"], int)
        rewrite = record["requested_rewrite"]
        assert set(rewrite) == {"prompt", "relation_id", "target_new", "target_true", "subject"}
        assert set(rewrite["target_new"]) == set(rewrite["target_true"]) == {"str", "id"}
        assert rewrite["prompt"].count("{}") == 1
        assert len(record["paraphrase_prompts"]) == 2
        assert 5 <= len(record["neighborhood_prompts"]) <= 10
        assert len(set(record["neighborhood_prompts"])) == len(record["neighborhood_prompts"])
        assert len(record["attribute_prompts"]) <= 10
        assert len(record["generation_prompts"]) == 10
        assert len(record["same_subject_prompts"]) >= 1


def test_answers_are_the_worlds(split: str) -> None:
    for record in build_records(split):
        rewrite = record["requested_rewrite"]
        subject, relation = rewrite["subject"], rewrite["relation_id"]
        fact = WORLD.facts[subject][relation]
        assert rewrite["target_true"]["str"] == fact.object != rewrite["target_new"]["str"]
        assert rewrite["prompt"] in fact.seen
        held_out = [wording.format(subject) for wording in fact.held_out]
        assert any(p.endswith(h) for p in record["paraphrase_prompts"] for h in held_out)
        assert rewrite["prompt"].format(subject) not in record["paraphrase_prompts"]
        for other in record["same_subject_prompts"]:
            true = WORLD.facts[subject][other["relation_id"]].object
            assert other["relation_id"] != relation
            assert other["target_true"]["str"] == true != other["target_other"]["str"]
            assert subject in other["prompt"]


def test_neighbours_share_the_object_and_attributes_the_new_one(split: str) -> None:
    for record in build_records(split)[:150]:
        rewrite = record["requested_rewrite"]
        relation = rewrite["relation_id"]
        for key, target in (
            ("neighborhood_prompts", rewrite["target_true"]["str"]),
            ("attribute_prompts", rewrite["target_new"]["str"]),
        ):
            others = subjects_named(record[key], relation)
            assert rewrite["subject"] not in others
            assert {WORLD.facts[name][relation].object for name in others} <= {target}
            if split == "train":
                assert {WORLD.subjects[name].split for name in others} <= {"train"}


def test_peers_follow_the_edit() -> None:
    """A landmark moved to another city is asked about that city's country."""
    checked = 0
    for record in build_records("test"):
        rewrite = record["requested_rewrite"]
        if rewrite["relation_id"] != "P131":
            continue
        for other in record["same_subject_prompts"]:
            country = WORLD.facts[rewrite["target_new"]["str"]]["P17"].object
            if other["relation_id"] == "P17" and other["target_true"]["str"] != country:
                assert other["target_other"]["str"] == country
                checked += 1
    assert checked > 20


def test_splits_share_no_subject_and_no_case() -> None:
    test, train = build_records("test"), build_records("train")
    names = [{record["requested_rewrite"]["subject"] for record in of} for of in (test, train)]
    assert not names[0] & names[1]
    assert not {r["case_id"] for r in test} & {r["case_id"] for r in train}


def test_the_first_hundred_records_cover_all_frequencies_and_relations() -> None:
    first = [record["requested_rewrite"] for record in build_records("test")[:100]]
    size = len(WORLD.subjects)
    quarters = Counter(4 * WORLD.subjects[rewrite["subject"]].rank // size for rewrite in first)
    assert min(quarters[quarter] for quarter in range(4)) >= 12
    assert len({rewrite["relation_id"] for rewrite in first}) >= 10
