"""Why a model cannot be edited, from its ``config.json`` alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from editkit.errors import ModelError, did_you_mean
from editkit.models.lookup import (
    ARCHITECTURES,
    UnknownArchitectureError,
    architecture_of,
    is_known,
    known_types,
)
from editkit.models.text_part import WRAPPERS

_VISION_MODEL = "a vision or multimodal model"
_DIFFUSION = "a diffusion model, which does not write its tokens from left to right"
_KINDS = (  # words in the names of transformers' model tables; the first match counts
    (("SEQ_TO_SEQ_CAUSAL_LM",), "an encoder-decoder"),
    (("IMAGE", "VIDEO", "VISUAL", "MULTIMODAL", "DETECTION", "DEPTH", "MASK_GENERATION",
      "BACKBONE", "SEGMENTATION"), _VISION_MODEL),
    (("SPEECH", "AUDIO", "CTC", "WAVEFORM", "SPECTROGRAM", "RNNT", "TDT"), "an audio model"),
    (("MASKED_LM",), "an encoder that fills in masked tokens"),
)  # fmt: skip
_VISION = ("vision_config", "vision_tower", "image_size", "image_token_id", "image_token_index")
_AUDIO = ("audio_config", "audio_token_id")
_ONLY_STATES = frozenset({"falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"})
_ALSO_STATES = frozenset({
    "bailing_hybrid", "bamba", "falcon_h1", "granitemoehybrid", "jamba", "kimi_linear", "lfm2",
    "lfm2_moe", "lfm3", "minimax", "nemotron_h", "olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text",
    "qwen3_next", "recurrent_gemma", "zamba", "zamba2", "zaya",
})  # fmt: skip
_STATES = (
    "which carry a state from token to token (state space, convolution or linear attention); "
    "editkit reuses the keys and values of earlier tokens, which these layers do not have"
)
_ATTENTION = ("attention", "full_attention", "sliding_attention")  # values of layer_types
_CROSS_ATTENTION = frozenset({"mllama", "idefics"})


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
    refused = foreign_kind(config)
    if refused is not None:
        return refused
    model_type = str(config["model_type"])
    if is_known(model_type):
        return None
    close = None
    if not _has_library(model_type):
        close = did_you_mean(model_type, ARCHITECTURES)
    elif (failure := _unlisted_failure(config)) is not UNKNOWN:
        return failure
    known = _known_families()
    return ForeignFamily(
        f"is of architecture {model_type!r}, which is not known",
        f"{close} {known}" if close else known,
    )


def foreign_kind(config: Mapping[str, Any]) -> ForeignFamily | None:
    """Why no entry could make the model of a ``config.json`` editable; None if one could.

    The reasons are models that are not causal language models, recurrent layers, and code of the
    model's own. No entry is checked.
    """
    known = _known_families()
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        return ForeignFamily(f"has a config.json without a model_type (got {model_type!r})", known)
    kind = _kind(config, model_type)
    if kind == _VISION_MODEL and model_type in _CROSS_ATTENTION:
        return ForeignFamily(
            f"is a vision-language model ({model_type}) with cross-attention to images inside its "
            "language model, so its text part is not a model of its own",
            known,
        )
    if kind == _VISION_MODEL:
        known += f" Of vision-language models, the text part loads from: {', '.join(WRAPPERS)}."
    if kind is not None:
        return ForeignFamily(
            f"is {kind} ({model_type}); editors need a causal language model", known
        )
    if _has_states(config, model_type):
        layers = "only recurrent layers" if model_type in _ONLY_STATES else "recurrent layers"
        return ForeignFamily(f"has {layers} ({model_type}), {_STATES}", known)
    if config.get("auto_map") and not is_known(model_type):
        return ForeignFamily(
            "needs its own code (auto_map in its config.json), which editkit never runs: "
            f"architecture {model_type!r} is not known",
            known,
        )
    return None


def _known_families() -> str:
    return f"Use a causal language model of one of: {', '.join(known_types())}."


UNKNOWN = ForeignFamily("", "")
"""The verdict on a model without the modules of any known family."""


def _has_states(config: Mapping[str, Any], model_type: str) -> bool:
    """Whether layers carry a state from token to token instead of keys and values."""
    layers = config.get("layer_types")
    if model_type in _ALSO_STATES and isinstance(layers, list) and layers:
        return any(layer not in _ATTENTION for layer in layers)
    return model_type in _ONLY_STATES | _ALSO_STATES


def _unlisted_failure(config: Mapping[str, Any]) -> ForeignFamily | None:
    """Why a family that the library has and the table lacks cannot be edited; None if it can."""
    from transformers import AutoConfig

    try:
        built = AutoConfig.for_model(**config)
    except Exception:  # the values are checked where the model is built
        return UNKNOWN
    try:
        architecture_of(built)
    except UnknownArchitectureError:
        return UNKNOWN
    except ModelError as error:
        return ForeignFamily(f"cannot be edited: {error.message.rstrip('.')}", error.hint or "")
    return None


def _has_library(model_type: str) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def _kind(config: Mapping[str, Any], model_type: str) -> str | None:
    """What the model is, if it is not a causal language model."""
    if config.get("is_encoder_decoder"):
        return "an encoder-decoder"
    if "diffusion" in model_type:
        return _DIFFUSION
    if any(config.get(key) is not None for key in _VISION):
        return _VISION_MODEL
    if any(config.get(key) is not None for key in _AUDIO):
        return "an audio model"
    if is_known(model_type):
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
