"""What edited models would write next: the most likely token after each of many texts.

Texts that begin alike are run once: where one is the beginning of another, its answer is read in
the middle of that one's pass. A target that is scored token by token costs one row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from editkit.editing.deltas import applied
from editkit.editing.edited import EditedModels
from editkit.models.encoding import chunks_by_tokens, padded
from editkit.models.running import forward

__all__ = ["NextTokenQuery", "most_likely_tokens"]

_LOGITS_AT_ONCE = 1024  # positions; of GPT-2's vocabulary, some 200 MB


@dataclasses.dataclass(frozen=True)
class NextTokenQuery:
    """Asks one edited model for the most likely token after some others.

    Attributes:
        edit: Number of the edited model.
        ids: Token ids that go before, at least one; no more than the model's context.
    """

    edit: int
    ids: tuple[int, ...]


def most_likely_tokens(models: EditedModels, queries: Sequence[NextTokenQuery]) -> list[int]:
    """The most likely next token of each query, by the edited model that it asks.

    Logits are formed only where they are read. The model answers in evaluation mode, whatever mode
    it is in.

    Args:
        models: The edited models.
        queries: In any order.

    Returns:
        One token id per query.
    """
    if models.batchable:
        return _batched(models, queries)
    answers = [0] * len(queries)
    for edit, delta in enumerate(models.deltas):
        mine = [number for number, query in enumerate(queries) if query.edit == edit]
        if not mine:
            continue
        with applied(models.model, delta):
            found = _batched(models.unedited(), [queries[number] for number in mine])
        for number, token in zip(mine, found, strict=True):
            answers[number] = token
    return answers


def _batched(models: EditedModels, queries: Sequence[NextTokenQuery]) -> list[int]:
    model = models.model
    owners = _owners(queries)
    asked: dict[NextTokenQuery, list[NextTokenQuery]] = {}  # a row -> what is read in it
    for query, owner in owners.items():
        asked.setdefault(owner, []).append(query)
    rows = list(asked)
    answers: dict[NextTokenQuery, int] = {}
    for batch in chunks_by_tokens([len(row.ids) for row in rows], models.token_budget):
        chosen = [rows[number] for number in batch]
        read = [(b, query) for b, row in enumerate(chosen) for query in asked[row]]
        with model.frozen(), torch.no_grad():
            ids = padded([row.ids for row in chosen], model.device)  # (B, T)
            with models.rows([row.edit for row in chosen]):
                hidden = forward(model, ids)  # (B, T, H)
            row = torch.tensor([b for b, _ in read], device=model.device)  # (N,)
            place = torch.tensor([len(query.ids) - 1 for _, query in read], device=model.device)
            states = hidden[row, place]  # (N, H)
            found: list[int] = []
            for start in range(0, len(states), _LOGITS_AT_ONCE):
                logits = model.head(states[start : start + _LOGITS_AT_ONCE])  # (n, V)
                found += logits.argmax(dim=-1).tolist()
        answers.update(zip((query for _, query in read), found, strict=True))
    return [answers[query] for query in queries]


def _owners(queries: Sequence[NextTokenQuery]) -> dict[NextTokenQuery, NextTokenQuery]:
    """For each query, the longest one of the same edited model that begins with it."""
    owners: dict[NextTokenQuery, NextTokenQuery] = {}
    after: NextTokenQuery | None = None
    # In order, whatever begins with a sequence comes right behind it.
    for query in sorted(set(queries), key=lambda query: (query.edit, query.ids), reverse=True):
        goes_on = (
            after is not None
            and after.edit == query.edit
            and after.ids[: len(query.ids)] == query.ids
        )
        if goes_on and after is not None:
            owners[query] = owners[after]
        else:
            owners[query] = query
        after = query
    return owners
