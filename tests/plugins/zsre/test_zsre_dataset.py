from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit import DatasetError, Records, make_dataset
from editkit.records.reading import read_records
from editkit_plugins.zsre.config import ZsreConfig
from editkit_plugins.zsre.dataset import ZsreDataset
from tests.plugins.zsre.zsre_samples import raw_question


def parse(*raw: object, **config: Any) -> Records:
    dataset = ZsreDataset(ZsreConfig(path=Path("unused.json"), **config))
    return read_records(raw, dataset._record)


def test_a_question_becomes_a_request_and_probes() -> None:
    (record,) = parse(raw_question()).records
    assert record.case_id == 0
    assert record.request.prompt == "In which city does {} stand?"
    assert record.request.sentence == "In which city does the Fish Market stand?"
    assert (record.request.target_new, record.request.target_true) == ("Oslo", "Bergen")
    [rewrite] = record.probes["rewrite"]
    [rephrased] = record.probes["paraphrase"]
    [unrelated] = record.probes["neighborhood"]
    assert rewrite.prompt == record.request.sentence
    assert rephrased.prompt == "Which city is the Fish Market in?"
    assert (rephrased.target_true, rephrased.target_new) == ("Bergen", "Oslo")
    assert unrelated.prompt == "nq question: who painted the scream?"
    assert unrelated.target_true == "Edvard Munch"


def test_the_training_target_is_the_alternative() -> None:
    (record,) = parse(raw_question(), target="alternative").records
    assert record.request.target_new == "Trondheim"
    assert record.probes["paraphrase"][0].target_new == "Trondheim"


def test_the_old_answer_may_be_unknown_or_already_right() -> None:
    known = raw_question() | {"pred": "Oslo"}
    unknown = {key: value for key, value in raw_question().items() if key not in ("pred", "alt")}
    first, second = parse(known, unknown).records
    assert first.request.target_true is second.request.target_true is None
    assert second.probes["rewrite"][0].target_true == "<|endoftext|>"


def test_the_first_occurrence_of_the_subject_is_edited() -> None:
    raw = raw_question("Oslo") | {"src": "Is Oslo, or new Oslo, in"}
    (record,) = parse(raw).records
    assert record.request.prompt == "Is {}, or new Oslo, in"
    assert record.request.sentence == "Is Oslo, or new Oslo, in"


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"subject": "Oslo"}, "subject", "not in src"),
        ({"subject": " "}, "subject", "not empty"),
        ({"src": "Where is the Fish Market, {}?"}, "src", "contains '{}', the subject's mark"),
        ({"answers": []}, "answers", "at least one"),
        ({"answers": [5]}, "answers[0]", "expected a text"),
        ({"answers": None}, "answers", "is missing"),
        ({"rephrase": None}, "rephrase", "is missing"),
        ({"loc": ""}, "loc", "not empty"),
        ({"loc_ans": {}}, "loc_ans", "expected a text"),
    ],
)
def test_a_broken_record_is_reported_and_skipped(
    changes: dict[str, Any], field: str, reason: str
) -> None:
    result = parse(raw_question(), raw_question() | changes, raw_question())
    assert [record.case_id for record in result.records] == [0, 2]
    (rejected,) = result.rejected
    assert (rejected.case_id, rejected.field) == ("position 1", field)
    assert reason in rejected.reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=8,
)


@given(value=JSON, key=st.sampled_from(sorted(raw_question())))
def test_arbitrary_fields_never_stop_the_load(value: object, key: str) -> None:
    result = parse(raw_question() | {key: value}, raw_question())
    assert len(result.records) + len(result.rejected) == 2


def test_plain_and_compressed_files(tmp_path: Path) -> None:
    text = json.dumps([raw_question()]).encode()
    (tmp_path / "plain.json").write_bytes(text)
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(text))
    plain, packed = (
        make_dataset("zsre", path=tmp_path / name).load()
        for name in ("plain.json", "packed.json.gz")
    )
    assert plain == packed
    with pytest.raises(DatasetError, match="does not exist"):
        make_dataset("zsre", path=tmp_path / "absent.json").load()


@pytest.mark.parametrize(("name", "n"), [("eval", 600), ("train", 1000)])
def test_the_real_records_all_load(test_data: Path, name: str, n: int) -> None:
    path = test_data / "data" / f"zsre_mend_{name}.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    loaded = make_dataset("zsre", path=path).load()
    assert loaded.rejected == ()
    assert len(loaded.records) == n
    for record, theirs in zip(loaded.records, raw, strict=True):
        assert record.request.sentence == theirs["src"].rstrip()
        assert record.request.target_new == theirs["answers"][0].strip()
