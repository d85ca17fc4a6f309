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
    known = f"Use a causal language model of one of: {', '.join(known_types())}."
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        return ForeignFamily(f"has a config.json without a model_type (got {model_type!r})", known)
    kind = _kind(config, model_type)
    if kind is not None:
        return ForeignFamily(
            f"is {kind} ({model_type}); editors need a causal language model", known
        )
    if is_known(model_type):
        return None
    if config.get("auto_map"):
        return ForeignFamily(
            "needs its own code (auto_map in its config.json), which editkit never runs: "
            f"architecture {model_type!r} is not known",
            known,
        )
    close = None
    if not _has_library(model_type):
        close = did_you_mean(model_type, ARCHITECTURES)
    elif (failure := _unlisted_failure(config)) is not UNKNOWN:
        return failure
    return ForeignFamily(
        f"is of architecture {model_type!r}, which is not known",
        f"{close} {known}" if close else known,
    )


UNKNOWN = ForeignFamily("", "")
"""The verdict on a model without the modules of any known family."""


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
    if any(config.get(key) is not None for key in _VISION):
        return "a vision or multimodal model"
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
