"""The tiny models of ``editkit.testing``, by the names that the tests use."""

from __future__ import annotations

from editkit.models import ARCHITECTURES as TABLE
from editkit.testing.models import ARCHITECTURES as ALL
from editkit.testing.models import (
    SENTENCES,
)
from editkit.testing.models import (
    tiny_model as tiny,
)
from editkit.testing.models import (
    tiny_tokenizer as tokenizer,
)
from tests.slow_cases import by_default

__all__ = [
    "ARCHITECTURES",
    "EACH",
    "EACH_WITH_EXPERTS",
    "EXPERTS",
    "ONE_OF_EACH_KIND",
    "SENTENCES",
    "tiny",
    "tokenizer",
]

EXPERTS = tuple(name for name in ALL if TABLE[name].experts)
"""Architectures where a block has experts instead of one MLP; some have a block without."""

ARCHITECTURES = tuple(name for name in ALL if name not in EXPERTS)
"""Architectures where every block has one MLP."""

ONE_OF_EACH_KIND = (
    "gpt2", "gptj", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma",
    "gemma2",  # norms after attention and MLP
    "granite",  # scaled logits and residual stream
    "falcon",  # adds attention and MLP in place
    "bloom",  # distance biases by row and head
    "phi3",  # gate and values in one projection
)  # fmt: skip

EACH = by_default(ARCHITECTURES, *ONE_OF_EACH_KIND)
"""Test cases: one architecture of each kind runs by default, the others are slow."""

EACH_WITH_EXPERTS = by_default(ALL, *ONE_OF_EACH_KIND, "qwen3_moe")
