"""The short texts that stand before the prompt, so that the edit holds in more than one place."""

from __future__ import annotations

import torch

from editkit.cache import cached_texts
from editkit.generation import sample
from editkit.models import LanguageModel
from editkit_plugins.rome.config import RomeConfig


def contexts(model: LanguageModel, config: RomeConfig) -> tuple[str, ...]:
    """The empty context, then those of the config, or else sampled ones ``"x. "``.

    Samples start at the model's end-of-text token, which is not part of the text; they are kept
    in the cache by model and seed.
    """
    if config.contexts is not None:
        return ("", *config.contexts)
    start = model.tokenizer.bos_token_id
    if start is None:
        start = model.tokenizer.eos_token_id
    description = {
        "model": model.fingerprint,
        "dtype": str(model.dtype),
        "lengths": config.context_lengths,
        "top_k": config.context_top_k,
        "seed": config.seed,
    }

    def make() -> list[str]:
        generator = torch.Generator().manual_seed(config.seed)
        return [
            f"{model.tokenizer.decode(ids)}. "
            for n, length in config.context_lengths
            for ids in sample(
                model,
                [start],
                n=n,
                new_tokens=length,
                top_k=config.context_top_k,
                generator=generator,
            )
        ]

    return ("", *cached_texts("contexts", description, make))
