from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from editkit import ModelError, load_model
from editkit.registry.models import fingerprint_of
from tests.tiny import tiny


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without one, wherever the test runs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny()
    model.hf.save_pretrained(tmp_path / "my-gpt2")
    model.tokenizer.save_pretrained(tmp_path / "my-gpt2")
    return tmp_path / "my-gpt2"


def test_a_folder_loads_as_it_was_saved(folder: Path) -> None:
    model = load_model(str(folder))
    assert model.weights_digest() == tiny().weights_digest()
    assert model.name == "my-gpt2"
    assert model.fingerprint == fingerprint_of(str(folder))
    assert not model.hf.training
    described = model.describe()
    assert (described["dtype"], described["device"]) == ("float32", "cpu")
    assert described["attention"] == model.hf.config._attn_implementation
    assert described["architecture"] == "gpt2"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_weights_have_the_requested_type(folder: Path, dtype: str) -> None:
    model = load_model(str(folder), dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    assert model.fingerprint == fingerprint_of(str(folder))


def test_the_fingerprint_depends_on_weights_config_and_tokenizer(folder: Path) -> None:
    before = fingerprint_of(str(folder))
    assert fingerprint_of(str(folder)) == before
    (folder / "README.md").write_text("irrelevant", encoding="utf-8")
    assert fingerprint_of(str(folder)) == before
    for name in ("config.json", "tokenizer.json"):
        text = (folder / name).read_text(encoding="utf-8")
        content = json.loads(text)
        (folder / name).write_text(json.dumps(content, indent=7) + "\n", encoding="utf-8")
        assert fingerprint_of(str(folder)) == before  # the same, written in another way
        (folder / name).write_text(json.dumps({**content, "more": 1}), encoding="utf-8")
        assert fingerprint_of(str(folder)) != before
        (folder / name).write_text(text, encoding="utf-8")
    tiny(seed=1).hf.save_pretrained(folder)
    assert fingerprint_of(str(folder)) != before


def test_the_embedded_model_loads_by_name() -> None:
    model = load_model("atlas")
    assert model.name == "atlas"
    assert model.fingerprint == fingerprint_of("atlas")


def test_a_hub_model_is_found_in_the_hubs_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a download leaves behind, without the network."""
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--someone--my-gpt2"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model = load_model("someone/my-gpt2")
    assert model.name == "someone/my-gpt2"
    assert (model.revision, model.commit) == (None, commit)
    assert load_model("someone/my-gpt2", revision=commit).weights_digest() == model.weights_digest()
    assert load_model(str(folder)).commit is None
    assert model.weights_digest() == tiny().weights_digest()


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_folders_that_do_not_exist(name: str) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_model(name)


def test_hub_models_that_are_not_cached_fail_offline() -> None:
    with pytest.raises(ModelError, match=r"'no-such-model'.*Registered models: atlas"):
        load_model("no-such-model")


def test_pickled_weights_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny().hf.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no .*safetensors"):
        load_model(str(folder))


def test_errors_for_damaged_and_incomplete_folders_name_the_cause(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:100])
    with pytest.raises(ModelError, match=r"model\.safetensors of .* is truncated"):
        load_model(str(folder))
    weights.write_bytes(content)
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"config\.json of .* is not JSON"):
        load_model(str(folder))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_requested_attention_is_used_and_recorded(folder: Path, attention: str) -> None:
    model = load_model(str(folder), attention=attention)
    assert model.describe()["attention"] == attention
    assert model.hf.config._attn_implementation == attention


# ---------------------------------------------------------------- several devices

SPLIT: dict[str, int | str] = {
    "transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.h.0": "cpu",
    "transformer.h.1": "cpu", "transformer.h.2": "cpu", "transformer.h.3": "cpu",
    "transformer.ln_f": "cpu", "lm_head": "cpu",
}  # fmt: skip


@pytest.mark.parametrize("device_map", [{"": "cpu"}, SPLIT, "auto"], ids=["whole", "split", "auto"])
def test_a_device_map_gives_the_same_model(
    folder: Path, device_map: str | dict[str, int | str]
) -> None:
    pytest.importorskip("accelerate")
    model = load_model(str(folder), device_map=device_map)
    assert model.weights_digest() == tiny().weights_digest()
    if device_map != "auto" or not torch.cuda.is_available():
        assert model.describe()["device"] == "cpu"
    assert not any(weight.is_meta for weight in model.hf.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": "flash"}, r"attention is 'flash'.*sdpa, eager"),
        (
            {"device_map": "best"},
            r"device_map is 'best', expected auto, .* For a single device, set",
        ),
        ({"device_map": "auto", "device": "meta"}, r"'meta' and device_map 'auto' are both given"),
        ({"device_map": {"": "disk"}}, r"puts 'the model' on 'disk': an edit needs its weights"),
        ({"device_map": {**SPLIT, "lm_head": "disk"}}, r"puts 'lm_head' on 'disk'"),
        ({"device_map": {"": "warp"}}, r"device is 'warp'"),
        ({"device_map": {"": 0}}, r"torch sees no GPU"),
    ],
)
@pytest.mark.usefixtures("no_gpu")
def test_invalid_device_maps_are_refused(folder: Path, arguments, message: str) -> None:
    pytest.importorskip("accelerate")
    with pytest.raises(ModelError, match=message):
        load_model(str(folder), **arguments)


def test_a_device_map_without_accelerate_names_the_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "accelerate" else find(name, *a),
    )
    with pytest.raises(ModelError, match="accelerate, which is not installed") as caught:
        load_model(str(folder), device_map="auto")
    assert caught.value.hint == "Run: pip install 'editkit[large]'"


def test_a_model_that_does_not_fit_is_refused_with_a_hint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.setattr(
        "transformers.integrations.accelerate.get_max_memory", lambda *_, **__: {"cpu": 30_000}
    )
    with pytest.raises(ModelError, match="an edit needs all of them in place"):
        load_model(str(folder), device_map="auto")
