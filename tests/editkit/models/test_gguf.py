"""GGUF files: loaded like a folder, identified by content, and refused with the true reason."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from editkit import ModelError, load_model
from editkit.cli.main import main
from editkit.models.dequantised import dequantised, is_dequantised
from editkit.registry.model_identity import identity_of
from editkit.registry.models import fingerprint_of, n_layers_of
from tests.tiny import tokenizer

if importlib.util.find_spec("gguf") is None:
    pytest.skip("gguf is not installed: pip install -e '.[test]'", allow_module_level=True)

import gguf
from transformers import LlamaConfig, LlamaForCausalLM

HEADS, KV_HEADS = 4, 2
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="module")
def source() -> LlamaForCausalLM:
    """A tiny Llama with random weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer()),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            max_position_embeddings=128,
            tie_word_embeddings=False,
        )
    ).eval()


def write(
    path: Path,
    source: LlamaForCausalLM,
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    without: tuple[str, ...] = (),
    architecture: str = "llama",
    extra: Callable[[gguf.GGUFWriter], Any] | None = None,
) -> Path:
    """Write a model with its tokenizer; ``kind`` is the type of the MLP's weights."""
    writer = gguf.GGUFWriter(path, architecture)
    config, vocabulary = source.config, tokenizer()
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if "tokenizer" not in without:
        model = json.loads(vocabulary.backend_tokenizer.to_str())["model"]
        ids = vocabulary.get_vocab()
        special = set(vocabulary.all_special_tokens)
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(sorted(ids, key=lambda token: ids[token]))
        writer.add_token_types([3 if token in special else 1 for token in sorted(ids, key=ids.get)])  # type: ignore[arg-type]
        merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        writer.add_token_merges(merges)
        writer.add_eos_token_id(int(vocabulary.eos_token_id))
    for name, weight in source.state_dict().items():
        array = weight.numpy().copy()
        path_of, _, end = name.rpartition(".")
        if path_of.startswith("model.layers."):
            _, _, layer, part = path_of.split(".", 3)
            stored = f"blk.{layer}.{NAMES[part]}.{end}"
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(NAMES[part])
            if heads:  # llama.cpp interleaves the two halves of each head
                halves = array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1])
                array = halves.swapaxes(1, 2).reshape(array.shape).copy()
        else:
            stored = {
                "model.embed_tokens": "token_embd",
                "model.norm": "output_norm",
                "lm_head": "output",
            }[path_of] + f".{end}"
        if stored in without:
            continue
        quantised = kind != gguf.GGMLQuantizationType.F32 and ".ffn_" in stored and array.ndim == 2
        if quantised:
            writer.add_tensor(stored, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(stored, array)
    if extra is not None:
        extra(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(source: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a GGUF file."""
    return write(tmp_path_factory.mktemp("gguf") / "Tiny-Llama-F32.gguf", source)


def test_a_file_and_its_folder_load_as_the_model_that_was_written(
    file: Path, source: LlamaForCausalLM
) -> None:
    expected = tokenizer()
    for name in (file, file.parent):
        model = load_model(str(name))
        ids = torch.tensor([expected("Ada Lovelace lives in Paris").input_ids])
        with torch.no_grad():
            assert torch.equal(model.hf(ids).logits, source(ids).logits)
        assert model.tokenizer("Ada Lovelace  lives").input_ids == (
            expected("Ada Lovelace  lives").input_ids
        )
        assert model.base_fingerprint == fingerprint_of(str(name)) == fingerprint_of(str(file))
        assert getattr(model.hf.config, "quantization_config", None) is None
    assert load_model(str(file)).name == "Tiny-Llama-F32"
    assert n_layers_of(str(file)) == 2
    known = identity_of(str(file))
    assert (known.names[0].name, str(known.sizes)) == (
        "tiny-llama",
        "llama with 2 layers, 64 wide",
    )


def test_identity_is_the_content(file: Path, source: LlamaForCausalLM, tmp_path: Path) -> None:
    copy = tmp_path / "other.gguf"
    shutil.copyfile(file, copy)
    (tmp_path / "config.json").write_text("{}")  # not part of the model
    assert fingerprint_of(str(copy)) == fingerprint_of(str(tmp_path)) == fingerprint_of(str(file))
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    assert fingerprint_of(str(copy)) != fingerprint_of(str(file))


def test_quantised_weights_are_those_that_gguf_dequantises(
    source: LlamaForCausalLM, tmp_path: Path
) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    model = load_model(str(write(tmp_path / "m.gguf", source, kind=kind)))
    weight = source.model.layers[1].mlp.down_proj.weight.detach().numpy()
    codes = gguf.quants.quantize(weight, kind)
    loaded = model.hf.get_parameter("model.layers.1.mlp.down_proj.weight")
    assert torch.equal(loaded, torch.from_numpy(gguf.quants.dequantize(codes, kind)))
    assert not torch.equal(loaded, torch.from_numpy(weight))


def test_doctor_reads_a_file_without_dequantising_it(
    source: LlamaForCausalLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "m.gguf", source, extra=lambda w: w.add_description("not loaded"))
    code = main(["doctor", "--model", str(file), "--editor", "ft", "--json"])
    checks = {c["topic"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    assert code == 0, checks
    assert not is_dequantised(file)
    assert "llama is known: 2 layers" in checks["architecture"]["text"]
    assert "on disk in 1 file" in checks["memory of weights"]["text"]
    assert "dequantised weights" in checks["disk"]["text"]
    assert "tokenizer" in checks


def test_damaged_weights_in_the_cache_are_dequantised_again(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = dequantised(file, "m") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        load_model(str(file))
    assert "is damaged; it is dequantised again" in caplog.text
    content[-5] ^= 1
    assert weights.read_bytes() == content


def cut(path: Path, size: int) -> Path:
    """Keep the beginning (or, if negative, all but the end) of a file."""
    path.write_bytes(path.read_bytes()[:size])
    return path


def big_endian(path: Path) -> Path:
    """Claim the other byte order."""
    content = path.read_bytes()
    path.write_bytes(content[:4] + struct.pack(">I", 3) + content[8:])
    return path


Make = Callable[[Path, LlamaForCausalLM], Path]
REFUSED: dict[str, tuple[Make, str, str]] = {
    "truncated": (
        lambda f, m: cut(write(f / "m.gguf", m), -100),
        "m.gguf of model .* is truncated: it has",
        "again",
    ),
    "cut header": (
        lambda f, m: cut(write(f / "m.gguf", m), 3000),
        "is truncated or damaged: its header cannot be read",
        "again",
    ),
    "big-endian": (
        lambda f, m: big_endian(write(f / "m.gguf", m)),
        "m.gguf of model .* is big-endian",
        "Convert it again",
    ),
    "no tokenizer": (
        lambda f, m: write(f / "m.gguf", m, without=("tokenizer",)),
        "m.gguf of model .* has no tokenizer",
        "Use a GGUF file with one",
    ),
    "architecture": (
        lambda f, m: write(f / "m.gguf", m, architecture="rwkv7"),
        "of architecture 'rwkv7', which transformers cannot dequantise",
        "original checkpoint",
    ),
    "part": (
        lambda f, m: write(f / "m-00001-of-00003.gguf", m),
        "is only one part of model",
        "llama-gguf-split --merge",
    ),
    "split": (
        lambda f, m: write(f / "m.gguf", m, extra=lambda w: w.add_uint16("split.count", 2)),
        "is only one part of model",
        "llama-gguf-split --merge",
    ),
    "missing": (
        lambda f, m: write(f / "m.gguf", m, without=("blk.1.ffn_up.weight",)),
        r"lacks 1 of the model's weights \(model.layers.1.mlp.up_proj.weight\)",
        "",
    ),
    "bias": (
        lambda f, m: write(
            f / "m.gguf",
            m,
            extra=lambda w: w.add_tensor("blk.0.attn_q.bias", torch.ones(64).numpy()),
        ),
        r"has 1 tensors that transformers leaves out .*\(blk.0.attn_q.bias\)",
        "original checkpoint",
    ),
    "rope factors": (
        lambda f, m: write(
            f / "m.gguf",
            m,
            extra=lambda w: w.add_tensor("rope_freqs.weight", torch.ones(8).numpy()),
        ),
        r"scales its positions \(rope_freqs.weight\), which transformers leaves out",
        "original checkpoint",
    ),
    "rope scaling": (
        lambda f, m: write(
            f / "m.gguf",
            m,
            extra=lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN),
        ),
        r"scales its positions \(yarn\)",
        "original checkpoint",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_cannot_be_used_are_refused_with_the_reason(
    case: str, source: LlamaForCausalLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message, hint = REFUSED[case]
    file = make(tmp_path, source)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(file))
    assert hint in str(caught.value.hint)
    assert main(["doctor", "--model", str(file), "--editor", "none", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert any(c["verdict"] == "problem" and caught.value.message in c["text"] for c in checks)


def test_without_the_package_the_error_names_the_extra(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "gguf" else find(name, *a)
    )
    with pytest.raises(ModelError, match="needs the package gguf") as caught:
        load_model(str(shutil.copyfile(file, tmp_path / "m.gguf")))
    assert caught.value.hint == "Run: pip install 'editkit[gguf]'"
