"""Sampling text from a model with top-k, seeded, in batches; the contexts that editors use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from editkit.cache import cached_texts
from editkit.errors import ModelError
from editkit.models.language_model import LanguageModel
from editkit.models.running import forward

__all__ = ["sample", "sampled_contexts"]


def sample(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    n: int,
    new_tokens: int,
    top_k: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """Continue one prompt ``n`` times.

    Args:
        model: The model.
        prompt: Token ids; at least one.
        n: Number of samples.
        new_tokens: Length of each sample; an end-of-text token does not end it.
        top_k: Only the k most likely tokens are drawn.
        generator: A CPU generator; the only source of randomness.

    Returns:
        The new tokens of each sample.
    """
    ids = torch.tensor([list(prompt)] * n, device=model.device)  # (n, P)
    drawn: list[Tensor] = []
    cache = DynamicCache()
    start = 0
    with torch.no_grad(), model.frozen():
        for _ in range(new_tokens):
            positions = start + torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
            hidden = forward(model, ids, positions=positions, cache=cache)
            start += ids.shape[1]
            top = model.head(hidden[:, -1]).topk(top_k, dim=-1)  # (n, k)
            weights = torch.softmax(top.values, dim=-1).cpu()
            choice = torch.multinomial(weights, 1, generator=generator).to(ids.device)  # (n, 1)
            ids = top.indices.gather(1, choice)  # (n, 1)
            drawn.append(ids)
    return [[int(token) for token in row] for row in torch.cat(drawn, dim=1)]


def sampled_contexts(
    model: LanguageModel, lengths: Sequence[tuple[int, int]], *, top_k: int, seed: int
) -> list[str]:
    """Short texts ``"x. "`` that the model writes by itself, to stand before a prompt.

    Samples start at the model's start (or end) of text token, which is not part of the text; they
    are kept in the cache by model, lengths and seed.

    Args:
        model: The model.
        lengths: How many, and the new tokens of each.
        top_k: Only the k most likely tokens are drawn.
        seed: Seed of the samples.

    Raises:
        ModelError: The tokenizer has no token that starts or ends a text.
    """
    start = model.tokenizer.bos_token_id
    if start is None:
        start = model.tokenizer.eos_token_id
    if start is None:
        raise ModelError(
            f"the tokenizer of {model.name} has no token that starts or ends a text, so no "
            "contexts can be sampled.",
            hint="Set bos_token or eos_token in its tokenizer_config.json.",
        )
    description = {
        "model": model.fingerprint,
        "dtype": str(model.dtype),
        "lengths": list(lengths),
        "top_k": top_k,
        "seed": seed,
    }

    def make() -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        return [
            f"{model.tokenizer.decode(ids)}. "
            for n, length in lengths
            for ids in sample(
                model, [start], n=n, new_tokens=length, top_k=top_k, generator=generator
            )
        ]

    return cached_texts("contexts", description, make)
