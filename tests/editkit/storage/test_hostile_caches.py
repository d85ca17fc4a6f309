"""Damaged cache files are recomputed, with the same result and a warning."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from editkit.storage.cache import cached_tensors, cached_texts
from editkit.storage.digests import digest_of_tensors, key_of

DESCRIPTION = {"model": "m", "layer": 3}
TEXTS = ["one", "zwei", "法国"]


def made() -> dict[str, torch.Tensor]:
    return {"moment": torch.arange(6.0).reshape(2, 3)}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path))
    return tmp_path


def spoil(content: bytearray, place: int, value: int, *, cut: bool) -> None:
    place %= len(content)
    if cut:
        del content[place:]
    else:
        content[place] = value


@settings(
    max_examples=80, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 5000), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_bytes_change_no_result(place: int, value: int, cut: bool, cache: Path) -> None:
    key = key_of(DESCRIPTION)
    for path, read in (
        (cache / "t" / f"{key}.safetensors", lambda: cached_tensors("t", DESCRIPTION, made)),
        (cache / "t" / f"{key}.json", lambda: cached_texts("t", DESCRIPTION, lambda: TEXTS)),
    ):
        before = read()
        content = bytearray(path.read_bytes())
        spoil(content, place, value, cut=cut)
        path.write_bytes(content)
        after = read()
        if isinstance(before, dict):
            assert torch.equal(after["moment"], before["moment"])
        else:
            assert after == before == TEXTS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        json.dumps({"texts": 3, "digest": "x", "description": DESCRIPTION}).encode(),
        json.dumps({"texts": [1], "digest": key_of({"texts": [1]}), "description": {}}).encode(),
        json.dumps(
            {"texts": ["a"], "digest": key_of({"texts": ["a"]}), "description": {}}
        ).encode(),
        b'{"texts": ["\\ud800"], "digest": "x"}',
        b"\xff\xfe",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_malformed_texts_are_recomputed(
    content: bytes, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = cache / "t" / f"{key_of(DESCRIPTION)}.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "editkit"):
        assert cached_texts("t", DESCRIPTION, lambda: TEXTS) == TEXTS
    assert "recomputed" in caplog.text
    assert cached_texts("t", DESCRIPTION, list) == TEXTS


@pytest.mark.parametrize(
    "description", ["null", "[]", "{", '"x"', "[" * 100_000, json.dumps({"model": "other"})]
)
def test_tensors_of_another_description_are_recomputed(description: str, cache: Path) -> None:
    path = cache / "t" / f"{key_of(DESCRIPTION)}.safetensors"
    path.parent.mkdir()
    others = {"moment": torch.zeros(1, dtype=torch.int64)}
    metadata = {"description": description, "digest": digest_of_tensors(others)}
    save_file(others, path, metadata=metadata)
    assert torch.equal(cached_tensors("t", DESCRIPTION, made)["moment"], made()["moment"])
