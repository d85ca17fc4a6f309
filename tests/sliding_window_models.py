"""Tiny models whose attention reaches back a few tokens only, in all layers or in some."""

from __future__ import annotations

from typing import Any

from editkit import LanguageModel
from tests.slow_cases import by_default
from tests.tiny import ARCHITECTURES, ONE_OF_EACH_KIND, tiny

WINDOWED: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}),
    "qwen3": ("qwen3", {"use_sliding_window": True, "max_window_layers": 0}),
    **{
        name: (name, {"layer_types": ["sliding_attention"] * 4})
        for name in ("gemma2", "gemma3_text", "olmo3", "exaone4")
    },
    "gemma2-mixed": ("gemma2", {}),
    "gemma3-mixed": ("gemma3_text", {}),
    "olmo3-mixed": ("olmo3", {}),
    "exaone4-mixed": ("exaone4", {}),
    "starcoder2": ("starcoder2", {}),
    "phi3": ("phi3", {}),
    "ministral3": ("ministral3", {}),
    **{
        name: (name, {"layer_types": ["sliding_attention"] * 4})
        for name in ("ministral", "cohere2", "cwm", "vaultgemma")
    },
    "cohere2-mixed": ("cohere2", {"layer_types": ["full_attention", "sliding_attention"] * 2}),
    "smollm3": (
        "smollm3",
        {"use_sliding_window": True, "layer_types": ["sliding_attention"] * 4},
    ),
    "smollm3-mixed": (
        "smollm3",
        {
            "use_sliding_window": True,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "no_rope_layers": [0, 1, 1, 1],
        },
    ),
    "gpt_neo": ("gpt_neo", {"attention_types": [[["local"], 4]]}),
    "gpt_neo-mixed": ("gpt_neo", {}),
    "qwen2-upper": ("qwen2", {"use_sliding_window": True, "max_window_layers": 2}),
    "qwen3-mixed": (
        "qwen3",
        {
            "use_sliding_window": True,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
        },
    ),
}
"""Every architecture of the table that knows windows, by name: its own, and other values."""

_NAMES = {"gpt_neo": "window_size"}

FAMILIES = tuple(dict.fromkeys((*ARCHITECTURES, *WINDOWED)))
"""All architectures of the table; those that know windows have one."""

_USUAL = ("mistral", "qwen2", "qwen3", "qwen2-upper", "qwen3-mixed", "gemma2-mixed", "gpt_neo")
EACH_WINDOWED = by_default(WINDOWED, *_USUAL)
"""Test cases: the windowed models; some run by default, the others are slow."""

EACH_FAMILY = by_default(FAMILIES, *_USUAL, *ONE_OF_EACH_KIND)


def windowed(name: str, window: int = 4, **changes: Any) -> LanguageModel:
    """A tiny model of a family, its window far shorter than a sentence where it knows windows."""
    architecture, values = WINDOWED.get(name, (name, {}))
    if name in WINDOWED:
        values = {**values, _NAMES.get(architecture, "sliding_window"): window}
    return tiny(architecture, **{**values, **changes})
