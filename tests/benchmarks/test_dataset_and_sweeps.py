from __future__ import annotations

import pytest

from editkit import load_model, make_dataset
from editkit_benchmarks.sweeps.__main__ import GRIDS, METRICS, score, settings


@pytest.mark.parametrize("split", ["test", "train"])
def test_every_embedded_record_is_valid(split: str) -> None:
    loaded = make_dataset("atlas", split=split).load()
    assert not loaded.rejected
    assert len(loaded.records) >= (800 if split == "test" else 500)
    assert len({record.case_id for record in loaded.records}) == len(loaded.records)
    for record in loaded.records:
        assert len(record.probes["paraphrase"]) == 2
        assert len(record.probes["neighborhood"]) >= 5 or split == "train"
        assert record.probes["same_subject"]


@pytest.mark.parametrize("dataset", ["atlas", "smollm2"])
def test_the_splits_share_no_subject(dataset: str) -> None:
    subjects = [
        {record.request.subject for record in make_dataset(dataset, split=split).load().records}
        for split in ("test", "train")
    ]
    assert not subjects[0] & subjects[1]


def test_zsre_of_the_embedded_world_asks_about_unrelated_facts() -> None:
    atlas = {record.case_id: record for record in make_dataset("atlas").load().records}
    records = make_dataset("atlas-zsre").load().records
    facts = {record.probes["rewrite"][0].prompt: record for record in atlas.values()}
    assert [record.case_id for record in records] == list(atlas)
    for record in records:
        assert record.request == atlas[record.case_id].request
        assert record.probes["paraphrase"] == atlas[record.case_id].probes["paraphrase"]
        [kept] = record.probes["neighborhood"]
        other = facts[kept.prompt].request
        assert kept.target_true == other.target_true
        assert other.subject != record.request.subject
        assert other.relation_id != record.request.relation_id
        assert kept.target_true not in (record.request.target_true, record.request.target_new)


def test_a_setting_of_each_sweep_is_scored() -> None:
    model = load_model("atlas")
    records = make_dataset("atlas", split="train").load().records[:2]
    for editor in ("ft", "ft+l"):
        values = next(settings(GRIDS["atlas"][editor]))
        assert values.keys() == GRIDS["atlas"][editor].keys()
        scores = score(model, editor, {**values, "steps": 2}, records)
        assert 0 <= scores["summary/score"] <= 1
        assert {f"{name.replace('-', '_')}/score" for name in METRICS} <= scores.keys()
