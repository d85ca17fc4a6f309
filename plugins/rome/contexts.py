"""The short texts that stand before the prompt, so that the edit holds in more than one place."""

from __future__ import annotations

from editkit.editing.generation import sampled_contexts
from editkit.models import LanguageModel
from editkit_plugins.rome.config import RomeConfig


def contexts(model: LanguageModel, config: RomeConfig) -> tuple[str, ...]:
    """The empty context, then those of the config, or else sampled ones ``"x. "``."""
    if config.contexts is not None:
        return ("", *config.contexts)
    lengths, top_k = config.context_lengths, config.context_top_k
    return ("", *sampled_contexts(model, lengths, top_k=top_k, seed=config.seed))
