"""Configurations of the metrics of texts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from editkit import Config


class GenerationConfig(Config):
    """How texts are generated; metrics with equal values share one set of texts."""

    tokens: int = Field(default=100, ge=1)
    """Length of a text in tokens, its prompt included; at most the model's context."""

    top_k: int = Field(default=5, ge=1)
    """Only so many of the most likely tokens are drawn."""

    normalization: Literal["NFKD", "none"] = "NFKD"
    """Unicode form of the texts. ``NFKD``, as published, takes accents off their letters, and the
    words are then no longer those of reference texts that write them as one."""


class EssenceConfig(Config):
    """How the perplexity of texts about the subject is computed."""

    max_tokens: int = Field(default=100, ge=2)
    """Only so many of the first tokens are read; at most the model's context."""

    divisor: Literal["all_tokens", "scored_tokens"] = "all_tokens"
    """What the sum of log likelihoods is divided by. ``all_tokens``, as published, counts the first
    token, too, which is not scored: the perplexity is a little too low."""
