"""The packaged facts and records of SmolLM2."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from editkit import ModelError, load_model, make_dataset
from editkit.storage.resources import resource_text
from editkit_benchmarks.smollm2.locate import locate
from editkit_plugins.counterfact.compiling.compiler import is_known

SPLITS = ("test", "train")


def facts_of(split: str) -> dict[str, Any]:
    text = resource_text(f"editkit_benchmarks:smollm2/facts/{split}.json")
    return dict(json.loads(text))


@pytest.mark.parametrize("split", SPLITS)
def test_every_record_is_about_a_packaged_fact(split: str) -> None:
    facts = {
        (name, fact["subject"], fact["object"])
        for name, relation in facts_of(split).items()
        for fact in relation["facts"]
    }
    loaded = make_dataset("smollm2", split=split).load()
    assert not loaded.rejected
    assert len(loaded.records) == {"test": 100, "train": 60}[split]
    for record in loaded.records:
        request = record.request
        assert (request.relation_id, request.subject, request.target_true) in facts
        assert request.target_new != request.target_true
        assert len(record.probes["paraphrase"]) == 2
        assert len(record.probes["neighborhood"]) >= 3


def test_no_subject_is_in_both_files_of_facts() -> None:
    test, train = (
        {fact["subject"] for relation in facts_of(split).values() for fact in relation["facts"]}
        for split in SPLITS
    )
    assert not test & train


def test_the_object_is_never_part_of_the_subject() -> None:
    for split in SPLITS:
        for relation in facts_of(split).values():
            for fact in relation["facts"]:
                assert fact["object"].lower() not in fact["subject"].lower()


def plain(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().lower()


def published_sentences(folder: Path) -> Iterator[str]:
    for relation in json.loads((folder / "pararel.json").read_text()).values():
        for pattern in relation["patterns"]:
            yield pattern["pattern"].replace("[X]", "").replace("[Y]", "")
    for record in json.loads((folder / "counterfact.json").read_text()):
        rewrite = record["requested_rewrite"]
        yield rewrite["prompt"].replace("{}", "")
        for prompt in record["paraphrase_prompts"]:
            yield prompt.split(". ")[-1].replace(rewrite["subject"], "")


def test_no_wording_is_one_of_the_published_datasets(test_data: Path) -> None:
    published = {plain(sentence) for sentence in published_sentences(test_data / "data")}
    assert len(published) > 300
    for split in SPLITS:
        for relation in facts_of(split).values():
            for wording in (*relation["wordings"], *relation["generation"]):
                assert plain(wording.replace("{}", "")) not in published


@pytest.mark.slow
def test_the_model_knows_every_fact_that_is_edited() -> None:
    try:
        locate()
    except ModelError as error:
        pytest.skip(str(error))
    records = [
        {
            "requested_rewrite": {
                "prompt": record.request.prompt,
                "subject": record.request.subject,
                "target_new": {"str": record.request.target_new},
                "target_true": {"str": record.request.target_true},
            }
        }
        for split in SPLITS
        for record in make_dataset("smollm2", split=split).load().records
    ]
    known = is_known(load_model("smollm2"), records)
    assert sum(known) >= 0.98 * len(known)
