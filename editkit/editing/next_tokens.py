"""Distributions of the next token after many texts, under edited models.

For a text x, p_0(t | x) the unedited model's distribution of the next token t, p the edited one's::

    KL(x) = sum over tokens t of p_0(t | x) (log p_0(t | x) - log p(t | x))     in nats
    TV(x) = 1/2 sum over tokens t of |p_0(t | x) - p(t | x)|                    from 0 to 1

Shared prefixes are run once: texts that begin alike are read in one row, so scoring a target token
by token costs no more than its longest text.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from editkit.editing.edited_models import EditedModels
from editkit.editing.queries import CandidateQuery

__all__ = [
    "MOST_NATS",
    "NextTokenQuery",
    "bounded",
    "forced_steps",
    "kl_divergences",
    "most_likely_tokens",
    "next_log_p",
    "prompts_as_read",
    "token_log_p",
    "token_ranks",
    "total_variations",
]

_LOGITS_AT_ONCE = 1024  # positions; for GPT-2's vocabulary about 200 MB
_DISTRIBUTIONS_AT_ONCE = 512  # rows; for GPT-2's vocabulary about 100 MB


MOST_NATS = 100.0
"""Bound of every number in nats. A model whose weights overflowed computes NaN, which counts as
this much, so that scores stay finite and have a finite variance."""


class _AfterTokens(Protocol):
    @property
    def edit(self) -> int:
        """Number of the edited model that answers."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The preceding tokens, with what the edit puts before prompts."""


_Query = TypeVar("_Query", bound=_AfterTokens)
_Number = TypeVar("_Number", int, float)


@dataclasses.dataclass(frozen=True)
class NextTokenQuery:
    """Which token is most likely to come next?

    Attributes:
        edit: Number of the edited model that answers.
        ids: The preceding token ids: at least one, at most the model's context.
        in_context: Whether they begin with what the edit puts before prompts
            (:meth:`EditedModels.in_context`).
    """

    edit: int
    ids: tuple[int, ...]
    in_context: bool = False


def forced_steps(
    models: EditedModels, query: CandidateQuery
) -> list[list[tuple[NextTokenQuery, int]]]:
    """Teacher forcing: each token of a candidate, and the query for what the model predicts there.

    Prompt and candidate are tokenised as one sentence. The query for token i holds the prompt's
    tokens and the candidate's first i tokens, whatever the model predicted for them.

    Args:
        models: The edited models.
        query: A prompt and its candidates.

    Returns:
        For each candidate, a query and a token id per token.

    Raises:
        DeltaError: A text is longer than the model's context because of the texts that the edit
            puts before it.
    """
    return [
        [
            (NextTokenQuery(query.edit, each.prompt + each.target[:i], in_context=True), token)
            for i, token in enumerate(each.target)
        ]
        for each in models.completions(query)
    ]


def most_likely_tokens(models: EditedModels, queries: Sequence[NextTokenQuery]) -> list[int]:
    """The most likely next token of each query, under its edited model.

    Logits are computed only at the positions that are read. The model runs in evaluation mode,
    whatever its current mode.

    Args:
        models: The edited models.
        queries: In any order.

    Returns:
        One token id per query.

    Raises:
        DeltaError: An edit puts texts before prompts, and a query's ids do not have them.
    """
    for query in queries:
        if not query.in_context:
            models.check_context(query.edit)
    return models.answers(_batched, models.merged(queries))


def _batched(models: EditedModels, queries: Sequence[NextTokenQuery]) -> list[int]:
    texts = list(dict.fromkeys((query.edit, query.ids) for query in queries))
    answers: dict[tuple[int, tuple[int, ...]], int] = {}
    for numbers, states in models.states_after(texts):
        with torch.no_grad():
            tokens: list[int] = []
            for start in range(0, len(states), _LOGITS_AT_ONCE):
                logits = models.model.head(states[start : start + _LOGITS_AT_ONCE])  # (n, V)
                tokens += logits.argmax(dim=-1).tolist()
        answers.update(zip([texts[number] for number in numbers], tokens, strict=True))
    return [answers[query.edit, query.ids] for query in queries]


# ---------------------------------------------------------------- whole distributions


def next_log_p(
    models: EditedModels, queries: Sequence[_Query]
) -> Iterator[tuple[list[_Query], Tensor]]:
    """Log probabilities of the next token, in batches of queries: (N, vocabulary) each.

    For edits that can share a batch; :meth:`EditedModels.answers` separates the others.

    Args:
        models: The edited models.
        queries: In any order; texts that edits put before prompts are in their ids.
    """
    for numbers, states in models.states_after([(query.edit, query.ids) for query in queries]):
        for start in range(0, len(numbers), _DISTRIBUTIONS_AT_ONCE):
            part = slice(start, start + _DISTRIBUTIONS_AT_ONCE)
            with torch.no_grad():
                log_p = torch.log_softmax(models.model.head(states[part]), dim=-1)  # (N, V)
            yield [queries[number] for number in numbers[part]], log_p


def kl_divergences(unedited: Tensor, edited: Tensor) -> Tensor:
    """KL divergence of edited from unedited distributions, in nats: (N,).

    Args:
        unedited: Log probabilities, (N, vocabulary).
        edited: Those of the edited models.
    """
    terms = unedited.exp() * (unedited - edited)
    return terms.masked_fill(unedited.isneginf(), 0.0).sum(dim=-1)


def total_variations(unedited: Tensor, edited: Tensor) -> Tensor:
    """Total variation distance of distributions, from 0 to 1: (N,).

    Args:
        unedited: Log probabilities, (N, vocabulary).
        edited: Those of the edited models.
    """
    return (unedited.exp() - edited.exp()).abs().sum(dim=-1) / 2


def bounded(nats: float) -> float:
    """A number in nats, at most :data:`MOST_NATS`, which also stands for NaN."""
    return MOST_NATS if math.isnan(nats) else min(nats, MOST_NATS)


def prompts_as_read(
    models: EditedModels, edit: int, prompts: Sequence[str]
) -> list[tuple[int, ...]]:
    """Token ids of prompts, after the texts that an edit puts before them.

    Args:
        models: The edited models.
        edit: Number of the edited model.
        prompts: The prompts.

    Raises:
        DeltaError: A prompt is longer than the model's context because of these texts.
        ModelError: A prompt is longer than the model's context.
    """
    encodings = models.model.read([models.in_context(edit, prompt) for prompt in prompts])
    for prompt, encoding in zip(prompts, encodings, strict=True):
        models.check_length(edit, encoding, prompt)
    return [encoding.ids for encoding in encodings]


@dataclasses.dataclass(frozen=True)
class _Read:
    edit: int
    ids: tuple[int, ...]
    tokens: tuple[int, ...]


def token_log_p(
    models: EditedModels, queries: Sequence[NextTokenQuery], tokens: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Log probabilities of tokens as the next one.

    Args:
        models: The edited models.
        queries: In any order; texts that edits put before prompts are in their ids.
        tokens: Token ids for each query.
    """
    return _each_read(models, queries, tokens, lambda row, ids: row[ids].tolist())


def token_ranks(
    models: EditedModels, queries: Sequence[NextTokenQuery], tokens: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Ranks of tokens among all next tokens: 1 for the most probable.

    Tokens that are equally probable have the same rank. A model whose weights overflowed gives all
    tokens the last rank.

    Args:
        models: The edited models.
        queries: In any order; texts that edits put before prompts are in their ids.
        tokens: Token ids for each query.
    """

    def ranks(row: Tensor, ids: list[int]) -> list[int]:
        n_not_above = (row[None] <= row[ids][:, None]).sum(dim=-1)  # (n,), with the token itself
        values: list[int] = (len(row) + 1 - n_not_above.clamp(min=1)).tolist()
        return values

    return _each_read(models, queries, tokens, ranks)


def _each_read(
    models: EditedModels,
    queries: Sequence[NextTokenQuery],
    tokens: Sequence[Sequence[int]],
    read: Callable[[Tensor, list[int]], list[_Number]],
) -> list[list[_Number]]:
    """What is read from the log probabilities (V,) of each query at its tokens."""

    def ask(some: EditedModels, asked: Sequence[_Read]) -> list[list[_Number]]:
        numbers: dict[_Read, list[_Number]] = {}
        for batch, log_p in next_log_p(some, asked):
            numbers |= {q: read(row, list(q.tokens)) for q, row in zip(batch, log_p, strict=True)}
        return [numbers[query] for query in asked]

    rows = [
        _Read(query.edit, query.ids, tuple(some))
        for query, some in zip(models.merged(queries), tokens, strict=True)
    ]
    distinct = list(dict.fromkeys(rows))
    answers = dict(zip(distinct, models.answers(ask, distinct), strict=True))
    return [list(answers[row]) for row in rows]
