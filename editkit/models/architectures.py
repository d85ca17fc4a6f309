"""The architectures that editkit can edit, and why others are refused.

To add one, add its module paths here and list its model types in :data:`ARCHITECTURES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from editkit.errors import ModelError, did_you_mean

Part = Literal["attention", "attention_out", "mlp", "mlp_in", "mlp_out"]
"""Roles of a block's modules. The projections to queries, keys and values are in ``qkv``."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Module paths of one family of models.

    Attributes:
        model_types: Values of ``config.model_type`` in this family.
        blocks: Path of the list of blocks; the next six paths are relative to one block.
        attention: The attention module.
        qkv: The projections to queries, keys and values (one fused, or three).
        attention_out: The attention's output projection.
        mlp: The MLP module; None where its projections are the block's own children.
        mlp_in: The projections into the MLP's inner space.
        mlp_out: The projection from the inner space, W in the methods' notation.
        embedding: Token embedding.
        final_norm: Norm between the last block and the head.
        head: The language-model head.
        position_embedding: Learned position embedding, if any.
        project_out: Projection after the final norm, if the head is narrower than the blocks.
        parallel: Whether attention and MLP read the same residual stream.
    """

    model_types: tuple[str, ...]
    blocks: str
    attention: str
    qkv: tuple[str, ...]
    attention_out: str
    mlp: str | None
    mlp_in: tuple[str, ...]
    mlp_out: str
    embedding: str
    final_norm: str
    head: str
    position_embedding: str | None = None
    project_out: str | None = None
    parallel: bool = False

    def block(self, layer: int) -> str:
        """Path of block ``layer``."""
        return f"{self.blocks}.{layer}"

    def path(self, layer: int, part: str) -> str:
        """Path of a module relative to block ``layer``."""
        return f"{self.blocks}.{layer}.{part}"


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

ARCHITECTURES: Mapping[str, Architecture] = {
    model_type: architecture
    for architecture in (_GPT2, _GPTJ, _GPT_NEOX, _OPT, _LLAMA)
    for model_type in architecture.model_types
}
"""Architectures by ``config.model_type``."""


def architecture_of(config: Any) -> Architecture:
    """The architecture of a transformers config.

    Raises:
        ModelError: The architecture is unknown, or its MLP output is not simply added to the
            residual stream (the post-norm blocks of OPT-350m).
    """
    model_type = str(getattr(config, "model_type", None))
    if model_type not in ARCHITECTURES:
        raise ModelError(
            f"architecture {model_type!r} is not known.",
            hint=f"Use a model of one of: {', '.join(sorted(ARCHITECTURES))}.",
        )
    if model_type == "opt" and not config.do_layer_norm_before:
        raise ModelError(
            "this OPT model normalises after each sublayer (do_layer_norm_before is false), "
            "so its MLP output is not simply added to the residual stream.",
            hint="Use another size of OPT: only opt-350m is built this way.",
        )
    architecture = ARCHITECTURES[model_type]
    if model_type == "gpt_neox":
        parallel = bool(getattr(config, "use_parallel_residual", True))
        return dataclasses.replace(architecture, parallel=parallel)
    return architecture


# ---------------------------------------------------------------- other models


_KINDS = (  # words in the names of transformers' model tables; the first match counts
    (("SEQ_TO_SEQ_CAUSAL_LM",), "an encoder-decoder"),
    (("IMAGE", "VIDEO", "VISUAL", "MULTIMODAL", "DETECTION", "DEPTH", "MASK_GENERATION",
      "BACKBONE", "SEGMENTATION"), "a vision or multimodal model"),
    (("SPEECH", "AUDIO", "CTC", "WAVEFORM", "SPECTROGRAM", "RNNT", "TDT"), "an audio model"),
    (("MASKED_LM",), "an encoder that fills in masked tokens"),
)  # fmt: skip
_VISION = ("vision_config", "vision_tower", "image_size", "image_token_id", "image_token_index")
_AUDIO = ("audio_config", "audio_token_id")


@dataclasses.dataclass(frozen=True)
class ForeignFamily:
    """Why editkit cannot edit the model that a config describes.

    Attributes:
        reason: Continues a sentence after the model's name: ``is an encoder-decoder (t5); ...``.
        hint: What to do.
    """

    reason: str
    hint: str


def foreign_family(config: Mapping[str, Any]) -> ForeignFamily | None:
    """Why the model of a ``config.json`` cannot be edited; None if its family is known."""
    known = f"Use a causal language model of one of: {', '.join(sorted(ARCHITECTURES))}."
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        return ForeignFamily(f"has a config.json without a model_type (got {model_type!r})", known)
    kind = _kind(config, model_type)
    if kind is not None:
        return ForeignFamily(
            f"is {kind} ({model_type}); editors need a causal language model", known
        )
    if model_type in ARCHITECTURES:
        return None
    if config.get("auto_map"):
        return ForeignFamily(
            "needs its own code (auto_map in its config.json), which editkit never runs: "
            f"architecture {model_type!r} is not known",
            known,
        )
    close = None if _has_library(model_type) else did_you_mean(model_type, ARCHITECTURES)
    return ForeignFamily(
        f"is of architecture {model_type!r}, which is not known",
        f"{close} {known}" if close else known,
    )


def _has_library(model_type: str) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES


def _kind(config: Mapping[str, Any], model_type: str) -> str | None:
    """What the model is, if it is not a causal language model."""
    if config.get("is_encoder_decoder"):
        return "an encoder-decoder"
    if any(config.get(key) is not None for key in _VISION):
        return "a vision or multimodal model"
    if any(config.get(key) is not None for key in _AUDIO):
        return "an audio model"
    if model_type in ARCHITECTURES:
        return None
    from transformers.models.auto import modeling_auto

    tables = [
        name
        for name, table in vars(modeling_auto).items()
        if name.endswith("_MAPPING_NAMES") and model_type in table
    ]
    for words, kind in _KINDS:
        if any(word in table for table in tables for word in words):
            return kind
    return None
