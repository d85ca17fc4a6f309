"""A small random model with a config's structure: a few narrow blocks, short windows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from editkit.errors import ModelError, first_line

__all__ = ["N_LAYERS", "small_config", "small_model", "word_tokenizer"]

N_LAYERS = 4
WINDOW = 4
_VOCABULARY = 200
_MOST_PARAMETERS = 20_000_000
_SCALE = 4.0  # factor on the usual initial weights, so that every part of the model matters

_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEAD_COUNTS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
_SMALL: dict[str, int] = {
    **dict.fromkeys(_LAYER_COUNTS, N_LAYERS),
    **dict.fromkeys(_HEAD_COUNTS, 4),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("sliding_window", "window_size", "attention_chunk_size"), WINDOW),
    "query_pre_attn_scalar": 8,
    "num_experts_per_tok": 2,
    "head_dim": 8,
    "rotary_dim": 4,
    "vocab_size": _VOCABULARY,
    "max_window_layers": N_LAYERS // 2,
    "first_k_dense_replace": 1,
}
"""Values of a small config, for the fields that a config has and sets."""
_DROPPED = (
    "architectures", "auto_map", "dtype", "model_type", "quantization_config", "torch_dtype",
    "transformers_version", "_name_or_path",
)  # fmt: skip


def small_config(config: PretrainedConfig) -> PretrainedConfig:
    """A config of the same structure with few, narrow blocks.

    Per-layer lists keep every kind of layer: of 30 sliding and 10 full layers, two of each stay.
    """
    values = {k: v for k, v in config.to_dict().items() if k not in _DROPPED}
    n_layers = int(config.num_hidden_layers)
    heads = int(config.num_attention_heads)
    for name, value in values.items():
        if name.endswith("_token_id") and value is not None:
            values[name] = [1] if isinstance(value, list) else 1
        elif name in _KEY_HEADS and isinstance(value, int):
            values[name] = 1 if value == 1 else 4 if value == heads else 2
        elif name in _SMALL and isinstance(value, int) and not isinstance(value, bool):
            values[name] = _SMALL[name]
        elif isinstance(value, list) and len(value) == n_layers:
            values[name] = _shortened(value)
        elif name in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
            values[name] = _plain_rope(value)
    if "attention_types" in values:  # of GPT-Neo: kinds of attention and how often they alternate
        [[kinds, _], *_] = values["attention_types"]
        values["attention_types"] = [[kinds, N_LAYERS // len(kinds)]]
    return type(config)(**values)


def _shortened(per_layer: Sequence[Any]) -> list[Any]:
    if not all(isinstance(each, Hashable) for each in per_layer):
        return list(per_layer[:N_LAYERS])
    kinds = list(dict.fromkeys(per_layer))
    return (kinds * N_LAYERS)[:N_LAYERS]


def _plain_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions without long-context scaling, which only depends on the width of heads."""
    if any(isinstance(each, dict) for each in rope.values()):  # by type of layer
        return {k: _plain_rope(v) if isinstance(v, dict) else v for k, v in rope.items()}
    kept = ("rope_theta", "partial_rotary_factor")
    return {"rope_type": "default", **{name: rope[name] for name in kept if name in rope}}


def small_model(config: PretrainedConfig) -> PreTrainedModel:
    """A random model of :func:`small_config`; global random states are not changed.

    Raises:
        ModelError: No small model can be built from the config.
    """
    small, reason = _small_or_reason(config)
    if small is None:
        raise ModelError(
            f"no small model can be built from a config of {config.model_type}: {reason}.",
            hint="Compare config.json with the one that the model's authors published.",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf: PreTrainedModel = AutoModelForCausalLM.from_config(small, dtype=torch.float32)
        _enlarge(hf)
    return hf.eval()


def _small_or_reason(config: PretrainedConfig) -> tuple[PretrainedConfig | None, str]:
    """The small config; or None, and why there is none."""
    for name in ("num_hidden_layers", "num_attention_heads"):
        if not isinstance(getattr(config, name, None), int):
            return None, f"it has no number {name}, which every model of attention blocks has"
    try:
        small = small_config(config)
        with torch.device("meta"):
            size = AutoModelForCausalLM.from_config(small).num_parameters()
    except Exception as error:  # configs and their classes raise anything
        return None, f"transformers raised {first_line(error, named=True)}"
    if size > _MOST_PARAMETERS:
        return None, f"even with {N_LAYERS} narrow layers it has {size:,} parameters"
    return small, ""


@torch.no_grad()
def _enlarge(hf: PreTrainedModel) -> None:
    """Weights large enough to matter, norms and biases that are not trivial."""
    for name, weight in hf.named_parameters():
        if weight.ndim > 1:
            weight.mul_(_SCALE)
        elif name.endswith("bias"):
            weight.normal_(std=0.1)
        else:
            weight.add_(torch.randn_like(weight) * 0.1)


def word_tokenizer(size: int = _VOCABULARY) -> PreTrainedTokenizerFast:
    """A tokenizer of the words ``t0``, ``t1``, ...; rules run on token ids and need no text."""
    tokenizer = Tokenizer(WordLevel({f"t{i}": i for i in range(size)}, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="t1")
