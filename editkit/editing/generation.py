"""Batched top-k text generation from seeds, and sampled contexts for editors."""

from __future__ import annotations

import itertools
import logging
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from editkit.errors import ModelError
from editkit.models.encoding import padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import forward
from editkit.progress import counting
from editkit.storage.cache import cached_texts
from editkit.storage.digests import seed_of

__all__ = [
    "continued",
    "draws",
    "in_published_form",
    "sample",
    "sampled_contexts",
    "text_after",
    "text_of",
]

_log = logging.getLogger(__name__)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_REDRAWS = 10


def draws(names: Sequence[tuple[int | str, ...]], n: int) -> Tensor:
    """Random numbers in [0, 1) for each name; equal names give equal numbers.

    Args:
        names: One per row.
        n: Number of draws per row.

    Returns:
        (rows, n), on the CPU.
    """
    rows = []
    for name in names:
        generator = torch.Generator().manual_seed(seed_of(name, n_bytes=8, signed=True))
        rows.append(torch.rand(n, generator=generator))
    return torch.stack(rows)


def continued(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniform: Tensor,
    *,
    top_k: int,
) -> list[list[int]]:
    """Continue prompts of different lengths to texts of the same length, in one batch.

    Generation starts after the shortest prompt. A row that is still within its prompt takes the
    prompt's token instead of a drawn one, so no row needs padding before its generated tokens.

    Args:
        model: The model, inside its :meth:`~editkit.models.LanguageModel.frozen`.
        prompts: Token ids; none may be empty.
        uniform: Numbers in [0, 1), (B, N) for texts of N tokens: column n decides token n.
        top_k: Sample only from the k most likely tokens.

    Returns:
        Token ids of each text; a prompt of N or more tokens is returned unchanged.
    """
    texts = padded(prompts, model.device)  # (B, longest prompt)
    n, start = uniform.shape[1], min(len(prompt) for prompt in prompts)
    if start >= n:
        return [list(prompt) for prompt in prompts]
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=texts.device)  # (B,)
    room = n - texts.shape[1]
    texts = torch.cat([texts, texts[:, -1:].expand(-1, room)], dim=1) if room > 0 else texts
    uniform = uniform.to(texts.device)
    cache = DynamicCache()
    hidden = forward(model, texts[:, :start], cache=cache)
    for column in range(start, n):
        drawn = _drawn(model.head(hidden[:, -1]), uniform[:, column], top_k)  # (B,)
        texts[:, column] = torch.where(column < lengths, texts[:, column], drawn)
        if column + 1 < n:
            here = torch.full_like(texts[:, :1], column)  # (B, 1)
            hidden = forward(model, texts[:, column : column + 1], positions=here, cache=cache)
    sizes = [max(n, len(prompt)) for prompt in prompts]
    return [row[:size] for row, size in zip(texts.tolist(), sizes, strict=True)]


def _drawn(logits: Tensor, uniform: Tensor, top_k: int) -> Tensor:
    """Draw one token per row: (B, V) and (B,) to (B,).

    Tokens are sorted by id, not by likelihood, so that rounding cannot swap equally likely ones.
    """
    ids = logits.topk(min(top_k, logits.shape[-1]), dim=-1).indices.sort(dim=-1).values  # (B, k)
    weights = torch.softmax(logits.gather(1, ids), dim=-1)  # (B, k)
    place = (weights.cumsum(dim=-1) <= uniform[:, None]).sum(dim=-1)  # (B,)
    return ids.gather(1, place.clamp(max=ids.shape[1] - 1)[:, None])[:, 0]


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
        prompt: Token ids, at least one.
        n: Number of samples.
        new_tokens: Length of each sample; an end-of-text token does not end it.
        top_k: Sample only from the k most likely tokens.
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


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decode token ids to text without special tokens.

    Special tokens are removed, and so are strings such as ``<|endoftext|>`` that the model spells
    out in ordinary tokens. The texts around a removed token are joined by a space unless white
    space already separates them.

    Args:
        tokenizer: A transformers tokenizer.
        ids: Token ids.
    """
    added = [(i, t.content) for i, t in tokenizer.added_tokens_decoder.items() if t.special]
    special = {*tokenizer.all_special_ids, *(token for token, _ in added)}
    runs = itertools.groupby(ids, key=lambda token: token in special)
    pieces = [tokenizer.decode(list(run)) for is_special, run in runs if not is_special]
    names = {*map(str, tokenizer.all_special_tokens), *(name for _, name in added)}
    # The padding token may be ordinary text such as "!", so remove only unambiguous names.
    spelled = sorted((name for name in names if len(name) > 2 and not name.isalnum()), key=len)
    if spelled:
        pattern = "|".join(map(re.escape, reversed(spelled)))  # the longest first
        pieces = [part for piece in pieces for part in re.split(pattern, piece)]
    text = ""
    for piece in pieces:
        apart = not text or not piece or text[-1].isspace() or piece[0].isspace()
        text += piece if apart else f" {piece}"
    return text


def text_after(tokenizer: Any, before: Sequence[int], ids: Sequence[int]) -> str:
    """Text of tokens as they follow others, without special tokens.

    Some tokenizers decode a token at the start of a text without the space in front of it.

    Args:
        tokenizer: A transformers tokenizer.
        before: The tokens in front; may be empty.
        ids: The tokens that follow.
    """
    start, whole = text_of(tokenizer, before), text_of(tokenizer, [*before, *ids])
    # A tokenizer's clean-up may change the end of what is in front when more follows it.
    return whole[len(start) :] if whole.startswith(start) else text_of(tokenizer, ids)


def in_published_form(text: str, *, form: str | None = "NFKD") -> str:
    """Convert a generated text to the form of the published generator: blank lines become spaces.

    Args:
        text: The text.
        form: Unicode normalization form; None leaves the text unchanged.
    """
    if form == "NFKD":
        text = unicodedata.normalize("NFKD", text)
    return _BLANK_LINE.sub(" ", text)


def sampled_contexts(
    model: LanguageModel,
    lengths: Sequence[tuple[int, int]],
    *,
    top_k: int,
    seed: int,
    starts: Sequence[str] = (),
) -> list[str]:
    """Sample short texts ``"x. "`` from the model to prepend to a prompt.

    Samples start from the model's start-of-text (or end-of-text) token, or from given words. As in
    the published generator, texts are normalized to NFKD, blank lines become spaces, and special
    tokens are removed. A sample that is empty after this is redrawn up to ten times, then dropped
    with a warning. Texts are cached by model, lengths, and seed.

    Args:
        model: The model. Edits that are applied to it have no influence: the texts are sampled from
            the base model, as in the published code, where a sequence of edits samples them once.
        lengths: Pairs of (number of texts, tokens per text): new tokens, or, with ``starts``, all
            tokens.
        top_k: Sample only from the k most likely tokens.
        seed: Seed of the samples.
        starts: Beginnings of the texts, in turn; at least one token follows. Empty: the model
            writes the beginnings, too.

    Raises:
        ModelError: The tokenizer has no start- or end-of-text token, or all samples are empty.
    """
    description = {
        "form": "special tokens left out, NFKD, no blank lines, no empty texts",
        "model": model.weights.base(),
        "dtype": str(model.dtype),
        "lengths": list(lengths),
        "top_k": top_k,
        "seed": seed,
        **({"starts": list(starts)} if starts else {}),
    }
    begun = [encoding.ids for encoding in model.encode(starts)]
    before = () if starts else (_start_of_text(model),)  # read by the model, in no text

    def make() -> list[str]:
        generator = torch.Generator().manual_seed(seed)

        def drawn(n: int, start: tuple[int, ...], new_tokens: int) -> list[str]:
            samples = sample(
                model,
                before or start,
                n=n,
                new_tokens=new_tokens,
                top_k=top_k,
                generator=generator,
            )
            texts = [text_of(model.tokenizer, [*start, *ids]) for ids in samples]
            return [in_published_form(text) for text in texts]

        texts = []
        with counting("sampling contexts", sum(n for n, _ in lengths), unit="text") as advance:
            for n, start, new_tokens in _draws_of(lengths, begun):
                texts += [(start, new_tokens, text) for text in drawn(n, start, new_tokens)]
                advance(n)
        for _ in range(_REDRAWS):
            empty = [place for place, (*_, text) in enumerate(texts) if not text.strip()]
            if not empty:
                break
            for place in empty:
                start, new_tokens, _ = texts[place]
                texts[place] = (start, new_tokens, drawn(1, start, new_tokens)[0])
        kept = [text for *_, text in texts if text.strip()]
        if texts and not kept:
            raise ModelError(
                f"{model.name} generates only special tokens and white space, so no contexts can "
                "be sampled.",
                hint="Give texts in the editor's field contexts.",
            )
        if len(kept) < len(texts):
            _log.warning(
                "%d of %d contexts sampled from %s are empty and were dropped.",
                len(texts) - len(kept),
                len(texts),
                model.name,
            )
        return [f"{text}. " for text in kept]

    def make_unedited() -> list[str]:
        with model.unedited():
            return make()

    return cached_texts("contexts", description, make_unedited)


def _start_of_text(model: LanguageModel) -> int:
    """The token that starts a text, or else the one that ends it."""
    start: int | None = model.tokenizer.bos_token_id
    if start is None:
        start = model.tokenizer.eos_token_id
    if start is None:
        raise ModelError(
            f"the tokenizer of {model.name} has no token that starts or ends a text, so no "
            "contexts can be sampled.",
            hint="Set bos_token or eos_token in its tokenizer_config.json.",
        )
    return start


def _draws_of(
    lengths: Sequence[tuple[int, int]], begun: Sequence[tuple[int, ...]]
) -> list[tuple[int, tuple[int, ...], int]]:
    """Number of samples, beginning, and number of new tokens of each draw."""
    if not begun:
        return [(n, (), length) for n, length in lengths]
    wanted = [length for n, length in lengths for _ in range(n)]
    starts = itertools.islice(itertools.cycle(begun), len(wanted))
    return [
        (1, start, max(1, length - len(start)))
        for start, length in zip(starts, wanted, strict=True)
    ]
