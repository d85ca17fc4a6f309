"""Configurations of the text metrics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from editkit import Config


class GenerationConfig(Config):
    """How texts are generated. Metrics with equal values share their texts."""

    tokens: int = Field(default=100, ge=1)
    """Length of a text in tokens, including its prompt; at most the model's context."""

    top_k: int = Field(default=5, ge=1)
    """Number of most likely tokens to sample from."""

    normalization: Literal["NFKD", "none"] = "NFKD"
    """Unicode form of the texts. ``NFKD``, as published, separates accents from letters. Accented
    words then no longer match those in reference texts."""


class EssenceConfig(Config):
    """How the perplexity of essence texts is computed."""

    max_tokens: int = Field(default=100, ge=2)
    """Number of tokens to read from the beginning; at most the model's context."""

    divisor: Literal["all_tokens", "scored_tokens"] = "all_tokens"
    """Divisor of the summed log likelihood. ``all_tokens``, as published, includes the first token,
    which has no prediction; the perplexity is then slightly too low."""
