"""Greedy continuations of prompts under edited models, in batches, each up to its own end.

The prompts of a batch are run once, in one pass. Their keys and values are aligned on the right, so
that every row then adds its next token at the same place, whatever the length of its prompt::

    t_n = argmax over tokens t of p(t | prompt, t_1, ..., t_{n-1})

A row is finished after a token that ends its text or reaches a stop; a batch, when all of its rows
are. With a stop, most rows are finished long before the last one, so finished rows are dropped.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from transformers.cache_utils import DynamicCache

from editkit.editing.edited_models import EditedModels
from editkit.editing.generation import text_after, text_of
from editkit.editing.queries import GenerationQuery
from editkit.editing.stops import Stop
from editkit.models.encoding import chunks_by_tokens, padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import forward, run_prefix

__all__ = ["Continuation", "end_tokens", "greedy_continuations"]

_ROWS = 512  # of a batch; for GPT-2's vocabulary about 100 MB of logits
_WORTH_KEEPING = 3 / 4  # share of unfinished rows below which a batch drops the others
_log = logging.getLogger(__name__)


class Continuation(NamedTuple):
    """What a model writes after a prompt when it always takes the most likely token.

    Attributes:
        ids: The new tokens, without the one that ended the text; with a stop, up to the token that
            shows that the stop is reached.
        text: The same as text, as it follows the prompt; without special tokens. With a stop, cut
            there.
        ended: Whether the model ended the text; otherwise it is cut off.
    """

    ids: tuple[int, ...]
    text: str
    ended: bool


def greedy_continuations(
    models: EditedModels,
    queries: Sequence[GenerationQuery],
    *,
    new_tokens: int,
    stop: Stop | None = None,
) -> list[Continuation]:
    """Continue prompts with the most likely tokens, each row under its own edited model.

    The texts equal those of ``model.hf.generate(do_sample=False)`` for one prompt after the other
    under :func:`~editkit.editing.deltas.applied`, except where rounding decides between two tokens
    that are equally likely. Sampling settings and penalties of a generation config are not used.

    Args:
        models: The edited models.
        queries: In any order; a query's ``name`` has no effect.
        new_tokens: Most tokens of a continuation, at least one. If the model's context has no room
            for so many, a text is shorter, with a warning.
        stop: Where texts end. They are those of ``stop.cut`` on what the model writes without a
            stop, for fewer tokens; its own limit, ``stop.tokens``, is for you to pass.

    Returns:
        One continuation per query.

    Raises:
        DeltaError: A prompt is longer than the model's context because of the texts that its edit
            puts before it.
        ModelError: A prompt is longer than the model's context.
    """

    def ask(some: EditedModels, asked: Sequence[GenerationQuery]) -> list[Continuation]:
        return _batched(some, asked, new_tokens, stop)

    queries = models.merged(queries)
    distinct = list(dict.fromkeys(queries))
    answers = dict(zip(distinct, models.answers(ask, distinct), strict=True))
    return [answers[query] for query in queries]


def end_tokens(model: LanguageModel, *, chat: bool) -> frozenset[int]:
    """Ids of the tokens that end a text of the model.

    Those are the end-of-text tokens of its generation config and of its tokenizer. In a chat, the
    token that the template writes after an answer ends it, too, and so does a token that begins
    another turn or text.

    Args:
        model: The model.
        chat: Whether the text is an answer in a chat.
    """
    stated = getattr(model.hf.generation_config, "eos_token_id", None)
    ends = {model.tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])}
    if chat:  # the padding token may be ordinary text such as "!"
        ends |= {_after_answer(model), *(model.special.ids - {model.tokenizer.pad_token_id})}
    return frozenset(ends - {None})


def _after_answer(model: LanguageModel) -> int | None:
    """The special token that the chat template writes after an answer, if it does so."""
    after = model.chat_template.after_answer.lstrip()
    ids = model.tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    return ids[0] if ids and not text_of(model.tokenizer, ids[:1]) else None


def _batched(
    models: EditedModels,
    queries: Sequence[GenerationQuery],
    new_tokens: int,
    stop: Stop | None,
) -> list[Continuation]:
    model = models.model
    prompts = [models.prompt(query).ids for query in queries]
    limits = [min(new_tokens, model.context_length - len(ids)) for ids in prompts]
    if any(limit < new_tokens for limit in limits):
        _log.warning(
            "continuations have down to %d tokens instead of %d: no more fit into the context of "
            "%d tokens of %s",
            min(limits),
            new_tokens,
            model.context_length,
            model.name,
        )
    ends = {chat: end_tokens(model, chat=chat) for chat in {query.chat for query in queries}}
    answers: dict[int, Continuation] = {}
    for chunk in chunks_by_tokens([len(ids) + new_tokens for ids in prompts], models.token_budget):
        for start in range(0, len(chunk), _ROWS):
            batch = chunk[start : start + _ROWS]
            written = _continued(
                models,
                [queries[number].edit for number in batch],
                [prompts[number] for number in batch],
                [ends[queries[number].chat] for number in batch],
                [limits[number] for number in batch],
                None if stop is None else _stop_check(model, stop),
            )
            for number, ids in zip(batch, written, strict=True):
                ended = bool(ids) and ids[-1] in ends[queries[number].chat]
                own = tuple(ids[:-1] if ended else ids)
                before = () if queries[number].chat else prompts[number]
                text = text_after(model.tokenizer, before, own)
                text = text if stop is None else stop.cut(text)
                answers[number] = Continuation(own, text, ended)
    return [answers[number] for number in range(len(queries))]


def _stop_check(model: LanguageModel, stop: Stop) -> Callable[[Sequence[int]], bool]:
    """A function of a row's new tokens: whether they are past a stop.

    Most tokens have no mark of the stop, so that nothing needs to be decoded.
    """

    @functools.cache
    def is_marked(token: int) -> bool:
        text = model.tokenizer.decode([token])
        return "\ufffd" in text or not stop.marks.isdisjoint(text)  # or a part of a character

    def is_past(ids: Sequence[int]) -> bool:
        return any(map(is_marked, ids)) and stop.reached(text_of(model.tokenizer, ids))

    return is_past


def _continued(
    models: EditedModels,
    edits: Sequence[int],
    prompts: Sequence[Sequence[int]],
    ends: Sequence[Collection[int]],
    limits: Sequence[int],
    is_past: Callable[[Sequence[int]], bool] | None,
) -> list[list[int]]:
    """The new tokens of each row, with the one that ends it.

    Args:
        models: The edited models.
        edits: The edited model of each row.
        prompts: Token ids, at least one in each row.
        ends: The tokens that end each row.
        limits: Most new tokens of each row.
        is_past: Whether a row's new tokens are past its stop; None if there is no stop.
    """
    model = models.model
    written: list[list[int]] = [[] for _ in prompts]
    unfinished = [limit > 0 for limit in limits]
    if not any(unfinished):
        return written
    rows = list(range(len(prompts)))  # those that are still in the batch
    ids = padded(prompts, model.device)  # (B, P)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=ids.device)  # (B,)
    last = model.context_length - 1
    with model.frozen(), torch.no_grad(), contextlib.ExitStack() as hooks:
        hooks.enter_context(models.rows([edits[row] for row in rows], in_context=True))
        prefix, hidden = run_prefix(model, ids, lengths)
        state = hidden[torch.arange(len(rows), device=ids.device), lengths - 1]  # (B, H)
        cache = DynamicCache()
        for number, layer in enumerate(prefix.cache.layers):
            if layer.keys is not None:
                cache.update(layer.keys, layer.values, number)
        mask = prefix.mask if bool((lengths < ids.shape[1]).any()) else None  # (B, P)
        for step in range(max(limits)):
            tokens = model.head(state).argmax(dim=-1)  # (B,)
            for row, token in zip(rows, tokens.tolist(), strict=True):
                if unfinished[row]:
                    written[row].append(token)
                    unfinished[row] = (
                        token not in ends[row]
                        and len(written[row]) < limits[row]
                        and not (is_past is not None and is_past(written[row]))
                    )
            kept = [place for place, row in enumerate(rows) if unfinished[row]]
            if not kept:
                break
            if is_past is not None and len(kept) < _WORTH_KEEPING * len(rows):
                chosen = torch.tensor(kept)  # on the CPU: layers may be on several devices
                rows = [rows[place] for place in kept]
                tokens, lengths = tokens[chosen], lengths[chosen]
                mask = None if mask is None else mask[chosen]
                cache.batch_select_indices(chosen)
                hooks.close()
                hooks.enter_context(models.rows([edits[row] for row in rows], in_context=True))
            if mask is not None:
                mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)  # (B, P + step + 1)
            places = (lengths + step).clamp(max=last)[:, None]  # finished rows may run past the end
            hidden = forward(model, tokens[:, None], mask=mask, positions=places, cache=cache)
            state = hidden[:, -1]
    return written
