from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from counterfact_samples import raw_record
from pydantic import ValidationError

from editkit import DatasetError
from editkit_plugins.counterfact.config import CounterFactConfig
from editkit_plugins.counterfact.dataset import CounterFactDataset


def load(path: Path) -> Any:
    return CounterFactDataset(CounterFactConfig(path=path)).load()


def test_plain_and_compressed_files_give_the_same_records(tmp_path: Path) -> None:
    text = json.dumps([raw_record(1), raw_record(2)]).encode()
    (tmp_path / "plain.json").write_bytes(text)
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + text)
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(text))
    loaded = [load(path) for path in sorted(tmp_path.iterdir())]
    assert loaded[0] == loaded[1] == loaded[2]
    assert len(loaded[0].records) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b'{"case_id": 1}\n{"case_id": 2}\n', r"in each of its 2 lines \(JSON Lines\)"),
        (b'[{"case_id": 1', "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"{}", "holds an empty object, expected a list"),
        (b"[]", "holds an empty list"),
        (gzip.compress(b"[{}]" * 1000)[:-10], "cannot be read"),
    ],
    ids=[
        "absent",
        "empty",
        "json-lines",
        "cut",
        "utf-16",
        "deep",
        "object",
        "empty-list",
        "cut-gzip",
    ],
)
def test_a_file_without_records_is_an_error(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "records.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        load(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is a folder, expected a file"):
        load(tmp_path)


@pytest.mark.parametrize("fields", [{}, {"path": "x.json", "hub": "someone/counterfact"}])
def test_exactly_one_source(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="exactly one of 'path' and 'hub'"):
        CounterFactConfig.model_validate(fields)


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the datasets library reads as it reads a hub dataset."""
    config = pytest.importorskip("datasets.config")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub"
    folder.mkdir()
    plain = raw_record(2)
    del plain["same_subject_prompts"]
    lines = (json.dumps(record) for record in [raw_record(1), plain])
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_a_hub_dataset(hub_folder: Path) -> None:
    records = CounterFactDataset(CounterFactConfig(hub=str(hub_folder))).load()
    assert records.rejected == ()
    assert [len(r.probes.get("same_subject", ())) for r in records.records] == [1, 0]


def test_a_hub_dataset_that_does_not_exist(hub_folder: Path) -> None:
    config = CounterFactConfig(hub=str(hub_folder), split="test")
    with pytest.raises(DatasetError, match="split 'test'"):
        CounterFactDataset(config).load()


def test_a_subclass_only_sets_the_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([raw_record()]), encoding="utf-8")

    class Mine(CounterFactDataset):
        def __init__(self) -> None:
            super().__init__(CounterFactConfig(path=path))

    assert [record.case_id for record in Mine().load().records] == [7]
