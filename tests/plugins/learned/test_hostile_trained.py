"""Damaged or manipulated trained editors, also with valid digests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import editkit_benchmarks.atlas
from editkit import ConfigError, DeltaError, LanguageModel, load_model
from editkit.storage.digests import digest_of_tensors
from editkit_plugins.learned.published import convert, read_published
from editkit_plugins.learned.trained import (
    FILE,
    load_trained,
    new_network,
    read_editor_file,
    save_trained,
)
from tests.hostile import either
from tests.plugins.learned.samples import MEND, editor_of
from tests.tiny import tiny

Facts = dict[str, Any]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny()


@pytest.fixture
def folder(model: LanguageModel, tmp_path: Path) -> Path:
    tensors = new_network(model, MEND).state_dict()
    facts = {"editor": "mend", "model": "tiny", "model_fingerprint": model.fingerprint}
    save_trained(tmp_path / "editor", tensors, MEND, facts)
    return tmp_path / "editor"


def rewrite(folder: Path, facts: object, tensors: Tensors) -> None:
    """With a digest of the tensors that fits, and none of the facts, as early versions wrote."""
    if isinstance(facts, dict):
        facts.pop("facts_digest", None)
        if "digest" in facts:
            facts["digest"] = digest_of_tensors(tensors)
    text = facts if isinstance(facts, str) else json.dumps(facts)
    save_file(tensors, folder / FILE, metadata={"editor": text})


FACTS: dict[str, Callable[[Facts], object]] = {
    "a list": lambda f: [],
    "no JSON": lambda f: "{",
    "deep": lambda f: "[" * 100_000,
    "twice": lambda f: '{"schema": 1, "schema": 1}',
    "no schema": lambda f: f.pop("schema") and f,
    "schema true": lambda f: {**f, "schema": True},
    "later schema": lambda f: {**f, "schema": 2},
    "no digest": lambda f: f.pop("digest") and f,
    "no settings": lambda f: f.pop("settings") and f,
    "settings null": lambda f: {**f, "settings": None},
    "no fingerprint": lambda f: f.pop("model_fingerprint") and f,
    "fingerprint number": lambda f: {**f, "model_fingerprint": 3},
    "unknown setting": lambda f: {**f, "settings": {**f["settings"], "x": 1}},
    "rank as text": lambda f: {**f, "settings": {**f["settings"], "rank": "many"}},
    "rank true": lambda f: {**f, "settings": {**f["settings"], "rank": True}},
    "another rank": lambda f: {**f, "settings": {**f["settings"], "rank": 9}},
    "more blocks": lambda f: {**f, "settings": {**f["settings"], "blocks": 99}},
    "no kind": lambda f: {**f, "settings": {}},
}


@pytest.mark.parametrize("name", FACTS)
def test_malformed_metadata_is_refused(name: str, folder: Path, model: LanguageModel) -> None:
    facts, tensors = read_editor_file(folder)
    rewrite(folder, FACTS[name](facts), tensors)
    with pytest.raises(ConfigError):
        load_trained(folder, model)


@pytest.mark.parametrize("value", ["nan", "int", "bool", "shape", "missing", "more"])
def test_invalid_tensors_are_refused(value: str, folder: Path, model: LanguageModel) -> None:
    facts, tensors = read_editor_file(folder)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    spoilt = {
        "nan": lambda t: torch.full_like(t, float("nan")),
        "int": lambda t: t.long(),
        "bool": lambda t: t.bool(),
        "shape": lambda t: t[:1].contiguous(),
    }
    if value == "missing":
        del tensors[name]
    elif value == "more":
        tensors["more"] = torch.ones(1)
    else:
        tensors[name] = spoilt[value](tensors[name])
    rewrite(folder, facts, tensors)
    with pytest.raises(ConfigError):
        load_trained(folder, model)


def test_a_changed_setting_is_detected(folder: Path, model: LanguageModel) -> None:
    content = (folder / FILE).read_bytes()
    load_trained(folder, model)
    changed = content.replace(b'\\"seed\\": 0', b'\\"seed\\": 7')
    assert changed != content
    (folder / FILE).write_bytes(changed)
    with pytest.raises(ConfigError, match="its metadata does not match its digest"):
        load_trained(folder, model)


@settings(
    max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_bytes_are_detected(
    place: int, value: int, cut: bool, folder: Path, model: LanguageModel
) -> None:
    path = folder / FILE
    before = path.read_bytes()
    content = bytearray(before)
    place %= min(len(content), 4000 if value % 2 else len(content))
    if cut:
        del content[place:]
    else:
        content[place] = value
    path.write_bytes(content)
    sound = content == before
    result = either(lambda: load_trained(folder, model), ConfigError, DeltaError)
    assert isinstance(result, ConfigError | DeltaError) != sound
    path.write_bytes(before)


@settings(
    max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200), zipped=st.booleans())
def test_arbitrary_pickles_are_refused(content: bytes, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes((b"PK\x03\x04" if zipped else b"\x80\x02") + content)
    assert isinstance(either(lambda: read_published(path), ConfigError), ConfigError)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        None,
        {"model": None},
        {"model": {"edit_lrs": 3}},
        {"model": {"edit_lrs": torch.ones(0)}},
        {"edit_lrs": torch.ones(2)},
        {"edit_lrs": torch.ones(2), "mend.(4, 4).layers.0.u": torch.ones(3)},
        {"editor.condition.embedding.weight": torch.ones(2)},
        {"editor.condition.embedding.weight": torch.ones(2, 2)},
    ],
)
def test_malformed_published_checkpoints_are_refused(
    content: Any, tmp_path: Path, model: LanguageModel
) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ConfigError):
        convert(read_published(tmp_path / "x.pt"), model, place="x.pt")


SHIPPED = Path(editkit_benchmarks.atlas.__file__).parent / "trained"


@pytest.mark.parametrize("name", ["ke", "mend-cf"])
def test_the_network_of_another_method_is_refused(name: str) -> None:
    editor = editor_of("mend" if name == "ke" else "ke", SHIPPED / name)
    with pytest.raises(ConfigError, match=f"is a network of {name[:4].strip('-')}") as caught:
        editor.check(load_model("atlas"))
    assert f"--editor {name}." in str(caught.value.hint)


@pytest.mark.parametrize("name", ["mend", "mend-cf"])
def test_a_network_trained_for_another_editor_name_is_reported(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    editor_of("mend", SHIPPED / name).check(load_model("atlas"))
    assert ["trained for mend-cf" in r.message for r in caplog.records] == [True] * (name != "mend")
