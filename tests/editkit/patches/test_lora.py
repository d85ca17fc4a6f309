"""LoRA adapters: PEFT computes the logits of the applied edit, on exactly the edited modules."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from editkit import DeltaError, LanguageModel, PromptContext, WeightDelta, applied
from editkit.editing.changes import Change, Dense, LowRank, Rows
from editkit.editing.deltas import stack
from editkit.patches.lora import LoraExport, export_lora, factors_of, vllm_warnings
from tests.editkit.models import test_text_part as vision_language
from tests.editkit.patches.exported import (
    IDS,
    dense,
    edit_of,
    edited_logits,
    loaded,
    low_rank,
    mlp_edit,
    rows,
    saved,
    shape_of,
)
from tests.slow_cases import by_default

pytestmark = pytest.mark.filterwarnings(  # PEFT reads a property that transformers deprecates
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)
_ADAPTED = ("gpt2", "llama", "qwen2", "qwen3", "phi3", "gpt_neox", "falcon", "bloom", "exaone")


def peft_logits(source: Path, *adapters: Path) -> tuple[Tensor, Any]:
    """Logits with all adapters active, (1, 32, vocabulary), and PEFT's model."""
    base = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    first, *others = adapters
    model = peft.PeftModel.from_pretrained(base, first, adapter_name="0")
    for number, adapter in enumerate(others, start=1):
        model.load_adapter(adapter, adapter_name=str(number))
    model.base_model.set_adapter([str(number) for number in range(len(adapters))])
    with torch.no_grad():
        return model(input_ids=IDS).logits, model


def adapted(model: Any) -> set[str]:
    """Names of the modules that PEFT changed."""
    return {
        name.removeprefix("base_model.model.")
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }


def modules_of(model: LanguageModel) -> list[str]:
    """An MLP's last projection, its first, and the attention's."""
    parts = (("mlp_out", 1), ("mlp_in", 3), ("attention_out", 2))
    return [model.path(layer, part) for part, layer in parts]  # type: ignore[arg-type]


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the logits' own size."""
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", by_default(_ADAPTED, "gpt2", "llama", "qwen2", "qwen3"))
def test_peft_computes_the_edited_logits(architecture: str, tmp_path: Path) -> None:
    """Low-rank, rows and a dense change of low rank, in modules of different ranks."""
    source = saved(architecture, tmp_path / "source", scale=2.0)
    model = loaded(source)
    names = modules_of(model)
    shapes = [shape_of(model, f"{name}.weight") for name in names]
    kinds = [
        low_rank(shapes[0], 3, seed=1, size=0.1),
        rows(shapes[1], 0, 5, seed=2),
        Dense(low_rank(shapes[2], 1, seed=3, size=0.1).dense()),
    ]
    changes: dict[str, Change] = {f"{n}.weight": c for n, c in zip(names, kinds, strict=True)}
    delta = edit_of(model, changes)
    written = export_lora(delta, str(source), tmp_path / "adapter")
    assert written.rank == 3
    assert dict(written.ranks) == dict(zip(names, (3, 2, 1), strict=True))
    logits, peft_model = peft_logits(source, tmp_path / "adapter")
    assert adapted(peft_model) == set(names)
    assert_close(logits, edited_logits(model, delta))
    with torch.no_grad():
        assert (logits - model.hf(input_ids=IDS).logits).abs().max() > 0.01


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
def test_two_adapters_at_once_are_the_stacked_patch(architecture: str, tmp_path: Path) -> None:
    source = saved(architecture, tmp_path / "source", scale=2.0)
    model = loaded(source)
    pair = mlp_edit(model, 1, seed=1), mlp_edit(model, 2, seed=2)
    same = edit_of(model, {f"{model.path(1, 'mlp_out')}.weight": low_rank(
        shape_of(model, f"{model.path(1, 'mlp_out')}.weight"), 1, seed=3)})  # fmt: skip
    deltas = [*pair, same]
    for number, delta in enumerate(deltas):
        export_lora(delta, str(source), tmp_path / str(number))
    together, _ = peft_logits(source, *(tmp_path / str(n) for n in range(3)))
    expected = edited_logits(model, stack(deltas))
    assert_close(together, expected)
    export_lora(deltas, str(source), tmp_path / "one")
    assert_close(peft_logits(source, tmp_path / "one")[0], expected)


def test_layer_1_does_not_match_layer_11(tmp_path: Path) -> None:
    source = saved("llama", tmp_path / "source", num_hidden_layers=12)
    model = loaded(source)
    delta = mlp_edit(model, layer=1)
    export_lora(delta, str(source), tmp_path / "adapter")
    _, peft_model = peft_logits(source, tmp_path / "adapter")
    assert adapted(peft_model) == {"model.layers.1.mlp.down_proj"}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 40), st.integers(2, 40), st.integers(1, 3), st.integers(0, 2**31),
    st.floats(-12, 12), st.sampled_from(["low rank", "dense", "rows"]),
)  # fmt: skip
def test_factors_give_back_the_change(
    n_in: int, n_out: int, rank: int, seed: int, exponent: float, kind: str
) -> None:
    """For any shape, rank and size; an adapter is never larger than the weight."""
    size = 10.0**exponent
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(n_in, rank, generator=generator) * size
    right = torch.randn(rank, n_out, generator=generator)
    rank = min(rank, n_in)
    indices = torch.randperm(n_in, generator=generator)[:rank]
    change: Change = {
        "low rank": LowRank(left, right),
        "dense": Dense(left @ right),
        "rows": Rows(indices, right[:rank] * size, n_in),
    }[kind]
    if kind == "dense" and rank * (n_in + n_out) >= n_in * n_out:
        with pytest.raises(DeltaError, match="as large as the weight"):
            factors_of(change)
        return
    a, b = factors_of(change)
    assert a.dtype == b.dtype == torch.float32
    wide = change.dense().double()
    assert float((a.double() @ b.double() - wide).norm()) <= 1e-6 * float(wide.norm())
    assert len(b) <= max(rank, left.shape[1])


# ---------------------------------------------------------------- the files


def test_what_is_written(tmp_path: Path) -> None:
    """The names, types and entries that PEFT and vLLM read; see docs/export.md."""
    source = saved("llama", tmp_path / "source")
    model = loaded(source)
    a, b = model.path(1, "mlp_out"), model.path(2, "attention_out")
    large = low_rank(shape_of(model, f"{a}.weight"), 2, size=100.0)
    small = low_rank(shape_of(model, f"{b}.weight"), 5)
    delta = edit_of(model, {f"{a}.weight": large, f"{b}.weight": small})
    written = export_lora(delta, str(source), tmp_path / "adapter")
    assert isinstance(written, LoraExport)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "editkit.json",
    ]  # fmt: skip
    modes = {path.stat().st_mode for path in (tmp_path / "adapter").iterdir()}
    assert len(modes) == 1  # those of the umask
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 5  # the scaling of every module is 1
    assert config["target_modules"] == sorted([a, b])
    assert config["base_model_name_or_path"] == str(source.resolve()) == written.base
    assert (config["bias"], config["use_dora"], config["modules_to_save"]) == ("none", False, None)
    assert not config["fan_in_fan_out"]
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    names = {f"base_model.model.{name}.lora_{x}.weight" for name in (a, b) for x in "AB"}
    assert set(tensors) == names
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32
        assert tensor.shape[0 if "lora_A" in name else 1] == 5  # padded with zeros
    assert not tensors[f"base_model.model.{a}.lora_A.weight"][2:].any()
    sizes = [tensors[f"base_model.model.{a}.lora_{x}.weight"].norm() for x in "AB"]
    assert 0.3 < sizes[0] / sizes[1] < 3  # bfloat16 and float16 can hold both
    product = (
        tensors[f"base_model.model.{a}.lora_B.weight"]
        @ tensors[f"base_model.model.{a}.lora_A.weight"]
    )
    torch.testing.assert_close(product.T, large.dense())
    provenance = json.loads((tmp_path / "adapter" / "editkit.json").read_text())
    assert provenance["patches"][0]["digest"] == delta.digest()
    assert provenance["model"]["fingerprint"] == model.fingerprint
    assert provenance["model"]["name"] == "source"  # not where it is


def test_peft_knows_every_entry_of_the_config(tmp_path: Path) -> None:
    source = saved("gpt2", tmp_path / "source")
    export_lora(mlp_edit(loaded(source)), str(source), tmp_path / "adapter")
    config = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    model = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert isinstance(config, peft.LoraConfig)
    assert config.fan_in_fan_out
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert set(written) <= set(config.to_dict())
    assert isinstance(model, peft.PeftModel)


# ---------------------------------------------------------------- refusals


def test_a_tied_head_is_refused_and_an_untied_one_is_written(tmp_path: Path) -> None:
    for tied in (True, False):
        source = saved("llama", tmp_path / f"source{tied}", tie_word_embeddings=tied, scale=2.0)
        model = loaded(source)
        change = low_rank(shape_of(model, "lm_head.weight"), size=0.1)
        delta = edit_of(model, {"lm_head.weight": change})
        if tied:
            with pytest.raises(DeltaError, match="is the same weight as model.embed_tokens.weight"):
                export_lora(delta, str(source), tmp_path / "adapter")
        else:
            export_lora(delta, str(source), tmp_path / "adapter")
            logits, _ = peft_logits(source, tmp_path / "adapter")
            assert_close(logits, edited_logits(model, delta))


def test_a_head_that_is_stored_twice_is_tied(tmp_path: Path) -> None:
    source = saved("llama", tmp_path / "source", tie_word_embeddings=True)
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    model = loaded(source)
    delta = edit_of(model, {"lm_head.weight": low_rank(shape_of(model, "lm_head.weight"))})
    with pytest.raises(DeltaError, match="is the same weight"):
        export_lora(delta, str(source), tmp_path / "adapter")


@pytest.mark.parametrize(
    ("parameter", "make", "message"),
    [
        ("transformer.h.1.mlp.c_proj.bias", dense, "is a bias"),
        ("transformer.h.1.ln_1.weight", dense, "is a parameter of LayerNorm"),
        ("transformer.wte.weight", low_rank, "is a parameter of Embedding"),
        ("transformer.h.1.mlp.c_proj.weight", dense, "rank 32 of at most 32.*Export a folder"),
        ("transformer.h.1.mlp.c_proj.weight", lambda s: low_rank(s, 30), "rank 30 of at most 32"),
        ("transformer.h.1.mlp.c_proj.weight", lambda s: low_rank(s[::-1]), "has the shape"),
        ("transformer.h.7.mlp.c_proj.weight", lambda _: low_rank((4, 4)), "has no parameter"),
    ],
)
def test_what_an_adapter_cannot_hold(
    parameter: str, make: Any, message: str, tmp_path: Path
) -> None:
    source = saved("gpt2", tmp_path / "source")
    model = loaded(source)
    shape: Sequence[int] = () if "h.7" in parameter else shape_of(model, parameter)
    delta = edit_of(model, {parameter: make(shape)})
    with pytest.raises(DeltaError) as caught:
        export_lora(delta, str(source), tmp_path / "adapter")
    assert parameter.removesuffix(".weight") in caught.value.message
    assert re.search(message, str(caught.value), re.DOTALL)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_other_models_and_contexts_are_refused(tmp_path: Path) -> None:
    source = saved("gpt2", tmp_path / "source")
    other = loaded(saved("gpt2", tmp_path / "other", seed=1))
    with pytest.raises(DeltaError, match="but .*source is"):
        export_lora(mlp_edit(other), str(source), tmp_path / "adapter")
    export_lora(mlp_edit(other), str(source), tmp_path / "adapter", force=True)
    with applied(loaded(source), mlp_edit(other), force=True) as model, torch.no_grad():
        assert_close(peft_logits(source, tmp_path / "adapter")[0], model.hf(input_ids=IDS).logits)
    print_ = loaded(source).fingerprint
    context = WeightDelta({}, None, "in-context", {}, print_, context=PromptContext(("A",)))
    with pytest.raises(DeltaError, match="puts texts before prompts"):
        export_lora(context, str(source), tmp_path / "second")
    with pytest.raises(DeltaError, match="changes no weight"):
        export_lora(WeightDelta({}, None, "none", {}, print_), str(source), tmp_path / "second")


def test_the_text_part_of_a_vision_language_model_is_refused(tmp_path: Path) -> None:
    source = vision_language.saved("gemma3", tmp_path / "source")
    with pytest.raises(DeltaError, match="is a vision-language model"):
        export_lora(mlp_edit(loaded(source)), str(source), tmp_path / "adapter")


def test_warnings_about_vllm() -> None:
    assert vllm_warnings("llama", 16, ["model.layers.0.mlp.down_proj"]) == []
    [line] = vllm_warnings("llama", 17, [])
    assert "--max-lora-rank 32" in line
    [line] = vllm_warnings("qwen2", 513, [])
    assert "up to 512" in line
    [line] = vllm_warnings("gpt2", 1, [])
    assert "without LoRA" in line
