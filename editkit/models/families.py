"""The families of models that editkit knows.

To add one, write its entry, often with :func:`dataclasses.replace` from a similar one, and list it
in :data:`FAMILIES`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from editkit.errors import ModelError
from editkit.models.architectures import Architecture


def _parallel_if_configured(architecture: Architecture, config: Any) -> Architecture:
    return dataclasses.replace(architecture, parallel=bool(config.use_parallel_residual))


def _norm_before(architecture: Architecture, config: Any) -> Architecture:
    """Refuse OPT-350m, which normalises the sum of the residual stream and the MLP's output."""
    if not config.do_layer_norm_before:
        raise ModelError(
            "this OPT model normalises after each sublayer (do_layer_norm_before is false), "
            "so its MLP output is not simply added to the residual stream.",
            hint="Use another size of OPT: only opt-350m is built this way.",
        )
    return architecture


_GPT2 = Architecture(
    model_types=("gpt2",),
    blocks="transformer.h",
    attention="attn",
    qkv=("attn.c_attn",),
    attention_out="attn.c_proj",
    mlp="mlp",
    mlp_in=("mlp.c_fc",),
    mlp_out="mlp.c_proj",
    embedding="transformer.wte",
    position_embedding="transformer.wpe",
    final_norm="transformer.ln_f",
    head="lm_head",
)
_GPTJ = Architecture(
    model_types=("gptj",),
    blocks="transformer.h",
    attention="attn",
    qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    attention_out="attn.out_proj",
    mlp="mlp",
    mlp_in=("mlp.fc_in",),
    mlp_out="mlp.fc_out",
    embedding="transformer.wte",
    final_norm="transformer.ln_f",
    head="lm_head",
    parallel=True,
)
_GPT_NEOX = Architecture(
    model_types=("gpt_neox",),
    blocks="gpt_neox.layers",
    attention="attention",
    qkv=("attention.query_key_value",),
    attention_out="attention.dense",
    mlp="mlp",
    mlp_in=("mlp.dense_h_to_4h",),
    mlp_out="mlp.dense_4h_to_h",
    embedding="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    head="lm_head",
    parallel=True,
    for_config=_parallel_if_configured,
)
_OPT = Architecture(
    model_types=("opt",),
    blocks="model.decoder.layers",
    attention="self_attn",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_out="self_attn.out_proj",
    mlp=None,
    mlp_in=("fc1",),
    mlp_out="fc2",
    embedding="model.decoder.embed_tokens",
    position_embedding="model.decoder.embed_positions",
    project_out="model.decoder.project_out",
    final_norm="model.decoder.final_layer_norm",
    head="lm_head",
    for_config=_norm_before,
)
_LLAMA = Architecture(
    model_types=("llama", "mistral", "qwen2", "qwen3", "gemma"),
    blocks="model.layers",
    attention="self_attn",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_out="self_attn.o_proj",
    mlp="mlp",
    mlp_in=("mlp.gate_proj", "mlp.up_proj"),
    mlp_out="mlp.down_proj",
    embedding="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
)
_GEMMA2 = dataclasses.replace(
    _LLAMA,
    model_types=("gemma2", "gemma3_text", "olmo2", "olmo3", "exaone4"),
    attention_adds="post_attention_layernorm",
    mlp_adds="post_feedforward_layernorm",
)
_GLM4 = dataclasses.replace(
    _LLAMA,
    model_types=("glm4",),
    mlp_in=("mlp.gate_up_proj",),
    attention_adds="post_self_attn_layernorm",
    mlp_adds="post_mlp_layernorm",
)
_EXPERTS = dataclasses.replace(
    _LLAMA,
    model_types=("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss"),
    mlp_adds="mlp",
    experts="mlp.experts",
)

FAMILIES: tuple[Architecture, ...] = (
    _GPT2, _GPTJ, _GPT_NEOX, _OPT, _LLAMA, _GEMMA2, _GLM4, _EXPERTS,
)  # fmt: skip
