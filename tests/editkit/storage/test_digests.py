"""Digests that stores, caches and deltas keep: their values must never change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from editkit.registry.models import fingerprint_of
from editkit.storage.digests import (
    ascii_json,
    blake2b_of,
    canonical_json,
    digest,
    digest_of_file,
    digest_of_tensors,
    digest_of_texts,
    first_difference,
    key_of,
    seed_of,
    sha256_of,
)

EXPECTED = {
    "file": "c92262b04baa85bcc726783eb93bbddc",
    "tensors": "fc746324e89573266547ea7b4459ab89",
    "texts": "ee3e8d6c4663d1e8ebabce8547096f1af52581d385a48df27e729a0d3d3d0bb2",
    "digest": "123b424b7606d08d0756074e1f76051117423e1a66a03e02f56fd334de63705b",
    "key": "b419c1e91a2916818641258b218eee78",
    "seed": 2010745585806614269,
}


def test_the_values_are_those_of_earlier_versions(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content\n")
    tensors = {"w": torch.arange(6.0).reshape(2, 3)}
    assert {
        "file": digest_of_file(tmp_path / "file"),
        "tensors": digest_of_tensors(tensors, "text"),
        "texts": digest_of_texts(["a", "é", "\ud800"]),
        "digest": digest({"b": [1, 2.5], "a": "é"}),
        "key": key_of({"b": [1, 2.5], "a": "é"}),
        "seed": seed_of(("atlas", 7), n_bytes=8, signed=True),
    } == EXPECTED


def test_parts_count_as_one_text() -> None:
    assert sha256_of(["a", b"b"]) == sha256_of("ab")
    assert blake2b_of(iter(["a", "b"])) == blake2b_of(b"ab")


def test_the_fingerprint_of_the_embedded_model() -> None:
    assert fingerprint_of("atlas") == "facc76fd5f112734d345cec976a6f546"


def test_both_forms_of_json() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'
    assert ascii_json({"b": float("inf"), "a": "é"}) == '{"a":"\\u00e9","b":Infinity}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


@pytest.mark.parametrize(
    ("stored", "wanted", "clause"),
    [
        ({"a": 1}, {"a": 1}, None),
        (None, {"a": 1}, "it has no description"),
        ({"a": 1}, {"a": 2}, "a is 1, expected 2"),
        ({"a": 1, "b": 2}, {"a": 1}, "b is 2, expected None"),
        ({"a": None}, {}, "its description has other entries"),
    ],
)
def test_the_first_difference_names_the_entry(
    stored: object, wanted: object, clause: str | None
) -> None:
    assert first_difference(stored, wanted) == clause
