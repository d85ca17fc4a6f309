"""The fingerprint of a folder depends on the model, not on how its files are divided."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from editkit import DeltaError, Dense, ModelError, WeightDelta, applied, load_model
from editkit.editing.delta_files import load_delta, save_delta
from editkit.models import LanguageModel
from editkit.models.fingerprints import fingerprint_of_folder, legacy_fingerprint, weight_files
from editkit.registry.models import fingerprint_of, model_folder
from tests.tiny import tiny, tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny()
    model.hf.save_pretrained(tmp_path / "whole")
    model.tokenizer.save_pretrained(tmp_path / "whole")
    return tmp_path / "whole"


def resaved(folder: Path, out: Path, **options: object) -> Path:
    """As a user would do it: loaded and saved again."""
    model = load_model(str(folder))
    model.hf.save_pretrained(out, **options)
    model.tokenizer.save_pretrained(out)
    return out


@pytest.mark.parametrize("model", ["tiny", "atlas"])
def test_the_same_weights_in_other_shards_are_the_same_model(
    folder: Path, tmp_path: Path, model: str
) -> None:
    name, size = (str(folder), "20KB") if model == "tiny" else (model, "1MB")
    cut = resaved(model_folder(name), tmp_path / "cut", max_shard_size=size)
    assert len(weight_files(cut)) > 3
    assert fingerprint_of(str(cut)) == fingerprint_of(name)
    loaded = load_model(str(cut))
    assert loaded.fingerprint == load_model(name).fingerprint == fingerprint_of(name)


def test_order_metadata_and_stray_files_do_not_matter(folder: Path, tmp_path: Path) -> None:
    before = fingerprint_of(str(folder))
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    backwards = dict(sorted(tensors.items(), reverse=True))
    save_file(backwards, weights, metadata={"format": "pt", "more": "x"})
    (folder / "notes.txt").write_text("x", encoding="utf-8")
    save_file({"other": torch.ones(3)}, folder / "stray.safetensors")
    assert fingerprint_of(str(folder)) == before
    cut = resaved(folder, tmp_path / "cut", max_shard_size="20KB")
    save_file({"other": torch.ones(3)}, cut / "stray.safetensors")
    assert fingerprint_of(str(cut)) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["transformer.h.0.mlp.c_fc.weight"].view(-1)[7].add_(1e-6),
        lambda t: t.update({"transformer.wpe.weight": t["transformer.wpe.weight"].half()}),
        lambda t: t.update({"transformer.wpe.weight": t["transformer.wpe.weight"].flatten()}),
        lambda t: t.update({"renamed": t.pop("transformer.wpe.weight")}),
        lambda t: t.pop("transformer.wpe.weight"),
        lambda t: t.update({"more": torch.zeros(1)}),
    ],
)
def test_every_tensor_matters(folder: Path, change) -> None:
    before = fingerprint_of(str(folder))
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint_of(str(folder)) != before


@pytest.mark.parametrize(
    "name", ["vocab.json", "merges.txt", "special_tokens_map.json", "chat_template.jinja"]
)
def test_every_file_of_the_tokenizer_matters(folder: Path, name: str) -> None:
    before = fingerprint_of(str(folder))
    (folder / name).write_text("{}", encoding="utf-8")
    first = fingerprint_of(str(folder))
    (folder / name).write_text('{"a": 1}', encoding="utf-8")
    assert len({before, first, fingerprint_of(str(folder))}) == 3


@pytest.mark.parametrize(
    ("name", "entry", "matters"),
    [
        ("config.json", "transformers_version", False),
        ("config.json", "_name_or_path", False),
        ("config.json", "dtype", False),
        ("config.json", "layer_norm_epsilon", True),
        ("config.json", "unknown_entry", True),
        ("tokenizer_config.json", "is_local", False),
        ("tokenizer_config.json", "bos_token", True),
    ],
)
def test_where_a_model_was_stored_does_not_matter(
    folder: Path, name: str, entry: str, matters: bool
) -> None:
    before = fingerprint_of(str(folder))
    path = folder / name
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, entry: "something else"}), encoding="utf-8")
    assert (fingerprint_of(str(folder)) != before) == matters


def test_a_changed_file_is_read_again_even_if_its_time_is_restored(folder: Path) -> None:
    path = folder / "model.safetensors"
    stamp = path.stat()
    old = stamp.st_mtime_ns - 60_000_000_000
    os.utime(path, ns=(old, old))
    before = fingerprint_of(str(folder))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(old, old))
    assert fingerprint_of(str(folder)) != before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b""), "damaged"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "damaged"),
        (lambda f: _cut(f / "model.safetensors"), "ends before"),
        (lambda f: _index(f, "[]"), "damaged"),
        (
            lambda f: _index(f, '{"weight_map": {"a": "gone.safetensors"}}'),
            r"lacks 1 of its 1 weight files",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "no .*safetensors"),
    ],
)
def test_damaged_weights_are_named(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message):
        fingerprint_of_folder(folder)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _index(folder: Path, text: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- models without files


def test_the_fingerprint_in_memory_depends_on_weights_config_and_tokenizer() -> None:
    def fingerprint(seed: int = 0, eps: float | None = None, side: str = "right") -> str:
        model = tiny(seed=seed)
        if eps:
            model.hf.config.layer_norm_epsilon = eps
        words = tokenizer() if side == "right" else tokenizer(padding_side=side)
        return LanguageModel(model.hf, words, name="x").fingerprint

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(seed=1), fingerprint(eps=1e-3)}) == 3
    model = tiny()
    words = tokenizer()
    words.add_tokens(["Atlantis"])
    assert LanguageModel(model.hf, words, name="x").fingerprint != fingerprint()


# ---------------------------------------------------------------- earlier versions


def test_a_delta_of_an_earlier_version_fits_the_same_files(folder: Path, tmp_path: Path) -> None:
    old = legacy_fingerprint(folder)
    model = load_model(str(folder))
    assert old != model.fingerprint == fingerprint_of(str(folder))
    name = "transformer.h.1.mlp.c_proj.weight"
    changes = {name: Dense(torch.ones(model.hf.get_parameter(name).shape))}
    delta = WeightDelta(changes, None, "x", {}, old)
    save_delta(delta, tmp_path / "old.safetensors")
    delta = load_delta(tmp_path / "old.safetensors")
    with applied(model, delta):
        assert model.fingerprint != fingerprint_of(str(folder))
        with applied(model, delta):
            pass
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    tiny(seed=1).hf.save_pretrained(other)
    with (
        pytest.raises(DeltaError, match="made for the model"),
        applied(load_model(str(other)), delta),
    ):
        pass
    model.hf.get_parameter(name).data.add_(1)
    with pytest.raises(DeltaError, match="made for the model"), applied(model, delta):
        pass
    model.hf.get_parameter(name).data.copy_(tiny().hf.get_parameter(name))
    with applied(model, delta):
        pass
    again = load_model(str(folder))
    tiny(seed=2).hf.save_pretrained(folder)  # the files are no longer those in memory
    with pytest.raises(DeltaError, match="made for the model"), applied(again, delta):
        pass
