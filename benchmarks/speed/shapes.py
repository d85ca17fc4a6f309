"""The models that speed is measured on, by shape. Weights are random where only time matters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from editkit import EditkitError, LanguageModel, Record, UsageError, load_model
from editkit.storage.digests import key_of
from editkit_benchmarks.atlas.dataset import AtlasConfig, AtlasDataset


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model by its configuration.

    Attributes:
        title: What people call it.
        config: Its configuration.
        dtype: Type of its weights.
        layer: The block that ROME edits.
        layers: The blocks that MEMIT edits.
        needs_gpu: Whether it is too large for a CPU.
    """

    title: str
    config: Any
    layer: int
    layers: Sequence[int]
    dtype: torch.dtype = torch.float32
    needs_gpu: bool = False


_ENDS = {"bos_token_id": 0, "eos_token_id": 0}
SHAPES: Mapping[str, Shape] = {
    "tiny": Shape(
        "a GPT-2 with 2 layers",
        GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=3000, n_positions=256, **_ENDS),
        layer=0,
        layers=(0, 1),
    ),
    "tiny-llama": Shape(
        "a Llama with 2 layers, bfloat16",
        LlamaConfig(
            num_hidden_layers=2,
            hidden_size=32,
            intermediate_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=3000,
            max_position_embeddings=256,
            **_ENDS,
        ),
        layer=0,
        layers=(0, 1),
        dtype=torch.bfloat16,
    ),
    "gpt2-small": Shape("GPT-2-small shape", GPT2Config(**_ENDS), layer=4, layers=(3, 4, 5, 6)),
    "smollm2": Shape(
        "SmolLM2-135M shape",
        LlamaConfig(
            num_hidden_layers=30,
            hidden_size=576,
            intermediate_size=1536,
            num_attention_heads=9,
            num_key_value_heads=3,
            vocab_size=49152,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            **_ENDS,
        ),
        layer=3,
        layers=(2, 3, 4, 5, 6),
    ),
    "gpt2-xl": Shape(
        "GPT-2-XL shape",
        GPT2Config(n_layer=48, n_embd=1600, n_head=25, **_ENDS),
        layer=17,
        layers=(13, 14, 15, 16, 17),
        needs_gpu=True,
    ),
    "llama-8b": Shape(
        "Llama-8B shape, bfloat16",
        LlamaConfig(
            num_hidden_layers=32,
            hidden_size=4096,
            intermediate_size=14336,
            num_attention_heads=32,
            num_key_value_heads=8,
            vocab_size=128256,
            max_position_embeddings=8192,
            **_ENDS,
        ),
        layer=5,
        layers=(4, 5, 6, 7, 8),
        dtype=torch.bfloat16,
        needs_gpu=True,
    ),
}


def random_model(name: str, device: str = "cpu") -> LanguageModel:
    """A model of a shape with random weights, and atlas's tokenizer.

    Raises:
        UsageError: The shape is too large for a CPU.
    """
    shape = SHAPES[name]
    if shape.needs_gpu and device == "cpu":
        raise UsageError(
            f"the shape {name} is too large for a CPU.",
            hint="Measure it on a GPU (--device cuda), or choose another: --shape gpt2-small.",
        )
    gpus = [torch.cuda.current_device()] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=gpus), torch.device(device):
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(shape.config, dtype=shape.dtype)
    # Random draws depend on the device and on torch. Hashing the weights would take a minute.
    fingerprint = key_of({"shape": name, "device": device, "torch": torch.__version__})
    return LanguageModel(
        hf.to(device), atlas().tokenizer, name=f"{name}-random", fingerprint=fingerprint
    )


@functools.cache
def atlas() -> LanguageModel:
    """The embedded model: a GPT-2 with 6 layers and H = 128."""
    return load_model("atlas")


@functools.cache
def gpt2_small() -> LanguageModel:
    """GPT-2 small's shape with random weights."""
    return random_model("gpt2-small")


@functools.cache
def smollm2() -> LanguageModel:
    """SmolLM2-135M; its shape with random weights if this machine does not have it."""
    try:
        return load_model("smollm2")
    except EditkitError:
        return random_model("smollm2")


@functools.cache
def first_records(n: int) -> tuple[Record, ...]:
    """The first test records of the embedded world, in CounterFact's layout."""
    return AtlasDataset(AtlasConfig()).load().records[:n]
