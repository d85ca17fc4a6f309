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


def _granite_scales(architecture: Architecture, config: Any) -> Architecture:
    return dataclasses.replace(
        architecture,
        residual_scale=float(config.residual_multiplier),
        logit_scale=1 / config.logits_scaling,
    )


def _cohere_scale(architecture: Architecture, config: Any) -> Architecture:
    return dataclasses.replace(architecture, logit_scale=float(config.logit_scale))


def _falcon_blocks(architecture: Architecture, config: Any) -> Architecture:
    parallel = bool(config.parallel_attn or config.new_decoder_architecture)
    return dataclasses.replace(architecture, parallel=parallel, distance_biases=bool(config.alibi))


def _bloom_blocks(architecture: Architecture, config: Any) -> Architecture:
    """Refuse configs that no published BLOOM uses, with other sums and without module calls."""
    if config.apply_residual_connection_post_layernorm:
        raise ModelError(
            "this BLOOM model has normalised states in its residual stream "
            "(apply_residual_connection_post_layernorm is true), so a block's output is not its "
            "input plus what attention and MLP add.",
            hint="Use a published BLOOM model: in all of them, it is false.",
        )
    if config.pretraining_tp > 1 and config.slow_but_exact:
        raise ModelError(
            "this BLOOM model multiplies slices of its output projections (slow_but_exact is "
            "true), so the modules that editors watch are never called.",
            hint="Set slow_but_exact to false in config.json: results change by rounding only.",
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
    model_types=(
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma",
        "olmo",
        "smollm3",
        "ministral",
        "ministral3",
        "helium",
        "seed_oss",
        "hunyuan_v1_dense",
        "ernie4_5",
        "exaone",
        "iquestcoder",
        "cwm",
        "vaultgemma",
    ),
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
    gate_and_up=True,
    attention_adds="post_self_attn_layernorm",
    mlp_adds="post_mlp_layernorm",
)
_EXPERTS = dataclasses.replace(
    _LLAMA,
    model_types=("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss"),
    mlp_adds="mlp",
    experts="mlp.experts",
)

_STABLELM = dataclasses.replace(
    _LLAMA, model_types=("stablelm",), for_config=_parallel_if_configured
)
_GRANITE = dataclasses.replace(_LLAMA, model_types=("granite",), for_config=_granite_scales)
_COHERE = dataclasses.replace(
    _LLAMA, model_types=("cohere", "cohere2"), parallel=True, for_config=_cohere_scale
)
_NEMOTRON = dataclasses.replace(
    _LLAMA, model_types=("nemotron", "arcee", "apertus", "jais2"), mlp_in=("mlp.up_proj",)
)
_STARCODER2 = dataclasses.replace(
    _LLAMA, model_types=("starcoder2",), mlp_in=("mlp.c_fc",), mlp_out="mlp.c_proj"
)
_NANOCHAT = dataclasses.replace(
    _LLAMA, model_types=("nanochat",), mlp_in=("mlp.fc1",), mlp_out="mlp.fc2"
)
_GLM = dataclasses.replace(
    _LLAMA, model_types=("glm",), mlp_in=("mlp.gate_up_proj",), gate_and_up=True
)
_PHI3 = dataclasses.replace(_GLM, model_types=("phi3",), qkv=("self_attn.qkv_proj",))
_PHI = dataclasses.replace(
    _LLAMA,
    model_types=("phi",),
    attention_out="self_attn.dense",
    mlp_in=("mlp.fc1",),
    mlp_out="mlp.fc2",
    final_norm="model.final_layernorm",
    parallel=True,
)
_PERSIMMON = dataclasses.replace(
    _PHI,
    model_types=("persimmon",),
    qkv=("self_attn.query_key_value",),
    mlp_in=("mlp.dense_h_to_4h",),
    mlp_out="mlp.dense_4h_to_h",
    parallel=False,
)
_GPT_BIGCODE = dataclasses.replace(_GPT2, model_types=("gpt_bigcode",))
_GPT_NEO = dataclasses.replace(
    _GPT2,
    model_types=("gpt_neo",),
    qkv=("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
    attention_out="attn.attention.out_proj",
)
_CODEGEN = dataclasses.replace(_GPTJ, model_types=("codegen",), qkv=("attn.qkv_proj",))
_BLOOM = Architecture(
    model_types=("bloom",),
    blocks="transformer.h",
    attention="self_attention",
    qkv=("self_attention.query_key_value",),
    attention_out="self_attention.dense",
    mlp="mlp",
    mlp_in=("mlp.dense_h_to_4h",),
    mlp_out="mlp.dense_4h_to_h",
    embedding="transformer.word_embeddings",
    final_norm="transformer.ln_f",
    head="lm_head",
    for_config=_bloom_blocks,
    distance_biases=True,
)
_FALCON = dataclasses.replace(_BLOOM, model_types=("falcon",), for_config=_falcon_blocks)
_MPT = Architecture(
    model_types=("mpt",),
    blocks="transformer.blocks",
    attention="attn",
    qkv=("attn.Wqkv",),
    attention_out="attn.out_proj",
    mlp="ffn",
    mlp_in=("ffn.up_proj",),
    mlp_out="ffn.down_proj",
    embedding="transformer.wte",
    final_norm="transformer.norm_f",
    head="lm_head",
    distance_biases=True,
)

FAMILIES: tuple[Architecture, ...] = (
    _GPT2, _GPTJ, _GPT_NEOX, _OPT, _LLAMA, _GEMMA2, _GLM4, _EXPERTS, _STABLELM, _GRANITE, _COHERE,
    _NEMOTRON, _STARCODER2, _NANOCHAT, _GLM, _PHI3, _PHI, _PERSIMMON, _GPT_BIGCODE, _GPT_NEO,
    _CODEGEN, _BLOOM, _FALCON, _MPT,
)  # fmt: skip
