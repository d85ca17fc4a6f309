"""The text part of a vision-language model.

In the families of :data:`WRAPPERS`, a plain language model reads images as further token
embeddings. For text, it computes the same alone, so only its weights are loaded.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from editkit.errors import ModelError, first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["TEXT_NAMES", "WRAPPERS", "has_text_part", "text_config", "text_name", "text_part"]

WRAPPERS = (
    "gemma3", "idefics3", "internvl", "llava", "llava_next", "llava_onevision", "mistral3",
    "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm",
)  # fmt: skip
"""Values of ``model_type`` of vision-language models with a text part that can be loaded alone."""

_FLAT = ("qwen2_vl", "qwen2_5_vl")  # published configs have the text part's values at the top
_AS = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
"""Text parts that transformers has no causal language model for, and the families they belong to.

Their rotary positions have a time, a height and a width; in text the three are equal, which gives
ordinary rotary positions."""

TEXT_NAMES: Mapping[str, str] = {
    r"^(?:model\.)?(?:language_model|text_model)\.(?:model\.)?(?!lm_head\.)": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}
"""From names in a vision-language checkpoint to names in the language model, as patterns."""


def has_text_part(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` describes a model of :data:`WRAPPERS`."""
    model_type = config.get("model_type")
    flat = model_type in _FLAT and isinstance(config.get("vision_config"), Mapping)
    return model_type in WRAPPERS and (flat or isinstance(config.get("text_config"), Mapping))


def text_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ``config.json`` of the text part of a model with :func:`has_text_part`.

    Raises:
        ModelError: It cannot be read.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    with _readable(str(config["model_type"])):
        whole = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    return dict(text_config(whole).to_dict())


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The config of the text part of a vision-language model; any other config is returned as is.

    Raises:
        ModelError: The text part's config cannot be read.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if config.model_type not in WRAPPERS:
        return config
    with _readable(config.model_type):
        part = config.get_text_config()
        values = {k: v for k, v in part.to_dict().items() if k != "model_type"}
        kind = str(part.model_type)
        if kind in _AS:
            rope = values.get("rope_parameters") or {}
            values["rope_parameters"] = {k: v for k, v in rope.items() if k != "mrope_section"}
            kind = _AS[kind]
        text: PretrainedConfig = CONFIG_MAPPING[kind].from_dict(values)
    text.tie_word_embeddings = bool(getattr(config, "tie_word_embeddings", False))
    return text


@contextlib.contextmanager
def _readable(model_type: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the parsers of transformers raise anything
        raise ModelError(
            f"the text part of a {model_type} config cannot be read: {first_line(error)}",
            hint="Check config.json against the one that the model's authors published.",
        ) from error


def text_name(name: str) -> str:
    """A weight's name in the language model, from its name in a vision-language checkpoint."""
    for pattern, start in TEXT_NAMES.items():
        name = re.sub(pattern, start, name)
    return name
