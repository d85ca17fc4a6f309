"""Models that cannot be edited are refused with the true reason, from their config alone."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from editkit.models.foreign import foreign_family

REASONS: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": ({}, "only recurrent layers (mamba), which carry a state"),
    "mamba2": ({}, "only recurrent layers"),
    "falcon_mamba": ({}, "only recurrent layers"),
    "rwkv": ({}, "only recurrent layers"),
    "jamba": ({}, "has recurrent layers (jamba)"),
    "recurrent_gemma": ({}, "has recurrent layers"),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "has recurrent layers"),
    "qwen3_next": ({"layer_types": ["linear_attention"]}, "has recurrent layers"),
    "granitemoehybrid": ({"layer_types": ["mamba", "attention"]}, "has recurrent layers"),
    "bamba": ({}, "has recurrent layers"),
    "nemotron_h": ({}, "has recurrent layers"),
    "t5gemma": ({"is_encoder_decoder": True}, "an encoder-decoder"),
    "bert": ({}, "an encoder that fills in masked tokens"),
    "modernbert": ({}, "an encoder that fills in masked tokens"),
    "vit": ({}, "a vision or multimodal model"),
    "mllama": ({"vision_config": {}}, "cross-attention to images"),
    "wav2vec2": ({}, "an audio model"),
    "diffusion_gemma": ({}, "a diffusion model"),
}


@pytest.mark.parametrize("model_type", REASONS)
def test_the_reason_is_the_true_one(model_type: str) -> None:
    assert model_type in CONFIG_MAPPING
    values, reason = REASONS[model_type]
    family = foreign_family({"model_type": model_type, **values})
    assert family is not None
    assert reason in family.reason
    assert "gpt2" in family.hint


def test_a_hybrid_without_recurrent_layers_is_not_called_recurrent() -> None:
    family = foreign_family({"model_type": "granitemoehybrid", "layer_types": ["attention"]})
    assert family is None or "recurrent" not in family.reason
