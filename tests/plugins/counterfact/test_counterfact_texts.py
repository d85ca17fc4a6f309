"""Reference and essence texts: both layouts, their assignment to records, broken files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from counterfact_samples import raw_record

from editkit import DatasetError, Records
from editkit_plugins.counterfact.config import CounterFactConfig
from editkit_plugins.counterfact.dataset import CounterFactDataset

BY_ID = {"P131": {"Q585": ["Oslo is old.", "Oslo is large."], "Q26793": ["Bergen is wet."]}}
BY_NAME = {"P131": {"Oslo": ["Oslo is old.", "Oslo is large."]}, "P17": {"Norway": ["It is long."]}}
SNIPPETS = [
    {"relation_id": "P131", "target_id": "Q585", "samples": [{"name": "X", "text": "X, in Oslo."}]},
    {
        "relation_id": "P131",
        "target_id": "Q26793",
        "samples": [
            {"name": "the Fish Market", "text": "The Fish Market smells."},
            {"name": "Bryggen", "text": "Bryggen burnt."},
            {"name": "the Fish Market", "text": "It is in Bergen."},
        ],
    },
]
ESSENCE = {"the Fish Market": ["It sells fish.", "It is old."], "Bryggen": ["Houses."]}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def load(tmp_path: Path, **texts: Any) -> Records:
    records = write(tmp_path / "records.json", [raw_record(1), raw_record(2)])
    paths = {kind: write(tmp_path / f"{kind}.json", content) for kind, content in texts.items()}
    return CounterFactDataset(CounterFactConfig(path=records, **paths)).load()


@pytest.mark.parametrize("content", [BY_ID, BY_NAME])
def test_reference_texts_are_those_of_the_new_object(tmp_path: Path, content: Any) -> None:
    records = load(tmp_path, reference_texts=content)
    for record in records.records:
        assert record.texts["reference"] == ("Oslo is old.", "Oslo is large.")
        assert "essence" not in record.texts
    everything = [text for objects in content.values() for of in objects.values() for text in of]
    assert records.texts == {"reference": tuple(everything)}


def test_the_published_layout_has_both_kinds_of_texts(tmp_path: Path) -> None:
    records = load(tmp_path, reference_texts=SNIPPETS)
    texts = records.records[0].texts
    assert texts["reference"] == ("X, in Oslo.",)
    assert texts["essence"] == ("The Fish Market smells.", "It is in Bergen.")
    assert len(records.texts["reference"]) == 4


def test_a_file_of_essence_texts_takes_precedence(tmp_path: Path) -> None:
    records = load(tmp_path, reference_texts=SNIPPETS, essence_texts=ESSENCE)
    assert records.records[0].texts["essence"] == ("It sells fish.", "It is old.")


def test_without_files_there_are_no_texts(tmp_path: Path) -> None:
    records = load(tmp_path)
    assert set(records.records[0].texts) == {"generation"}
    assert records.texts == {}


def test_the_digest_depends_on_the_texts(tmp_path: Path) -> None:
    digests = [
        load(tmp_path, **texts).digest
        for texts in ({}, {"reference_texts": BY_ID}, {"reference_texts": SNIPPETS})
    ]
    assert len(set(digests)) == 3


def test_records_without_relation_or_ids_get_the_texts_that_match(tmp_path: Path) -> None:
    raw = raw_record(1)
    del raw["requested_rewrite"]["relation_id"]
    for target in ("target_new", "target_true"):
        del raw["requested_rewrite"][target]["id"]
    path = write(tmp_path / "records.json", [raw])
    texts = write(tmp_path / "texts.json", BY_NAME)
    [record] = (
        CounterFactDataset(CounterFactConfig(path=path, reference_texts=texts)).load().records
    )
    assert "reference" not in record.texts
    raw["requested_rewrite"]["relation_id"] = "P131"
    write(path, [raw])
    [record] = (
        CounterFactDataset(CounterFactConfig(path=path, reference_texts=texts)).load().records
    )
    assert record.texts["reference"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "an object that is not empty"),
        ({}, "an object that is not empty"),
        ("text", "an object that is not empty"),
        ({"P1": ["text"]}, "P1: expected an object"),
        ({"P1": {"Q1": "text"}}, "P1, Q1: expected a list of texts"),
        ({"P1": {"Q1": [1]}}, "P1, Q1: expected a list of texts"),
        ([{"relation_id": "P1"}], "entry 0: expected an object with relation_id"),
        ([SNIPPETS[0], 5], "entry 1: expected an object with relation_id"),
        ([{**SNIPPETS[0], "samples": ["text"]}], "entry 0: expected an object with relation_id"),
        ([{**SNIPPETS[0], "samples": [{"text": 5}]}], "entry 0: expected a list of texts"),
    ],
)
def test_files_in_another_layout_are_reported_with_the_place(
    tmp_path: Path, content: Any, message: str
) -> None:
    with pytest.raises(DatasetError, match=r"reference_texts\.json") as caught:
        load(tmp_path, reference_texts=content)
    assert message in str(caught.value)


def test_missing_and_compressed_files(tmp_path: Path) -> None:
    records = write(tmp_path / "records.json", [raw_record(1)])
    absent = CounterFactConfig(path=records, essence_texts=tmp_path / "absent.json")
    with pytest.raises(DatasetError, match=r"essence texts .*absent\.json' does not exist"):
        CounterFactDataset(absent).load()
    packed = tmp_path / "texts.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(BY_ID).encode()))
    loaded = CounterFactDataset(CounterFactConfig(path=records, reference_texts=packed)).load()
    assert loaded.records[0].texts["reference"]


def test_real_records_get_their_reference_texts(test_data: Path) -> None:
    config = CounterFactConfig(
        path=test_data / "data" / "counterfact.json",
        reference_texts=test_data / "data" / "trex_reference_texts.json",
    )
    loaded = CounterFactDataset(config).load()
    result = [record for record in loaded.records if "reference" in record.texts]
    assert len(loaded.records) == 1000
    assert len(result) > 500
    assert len(loaded.texts["reference"]) > 5000
