"""The most likely next token after each of many texts, under edited models.

Shared prefixes are run once: if one text is a prefix of another, its answer is read in the middle
of the longer text's row. Scoring a target token by token therefore costs one row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from editkit.editing.edited_models import EditedModels
from editkit.models.encoding import chunks_by_tokens, padded
from editkit.models.running import forward

__all__ = ["NextTokenQuery", "most_likely_tokens"]

_LOGITS_AT_ONCE = 1024  # positions; for GPT-2's vocabulary about 200 MB


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
    model = models.model
    owners = _owners(queries)
    asked: dict[NextTokenQuery, list[NextTokenQuery]] = {}  # a row -> the queries it answers
    for query, owner in owners.items():
        asked.setdefault(owner, []).append(query)
    rows = list(asked)
    answers: dict[NextTokenQuery, int] = {}
    for batch in chunks_by_tokens([len(row.ids) for row in rows], models.token_budget):
        chosen = [rows[number] for number in batch]
        read = [(b, query) for b, row in enumerate(chosen) for query in asked[row]]
        with model.frozen(), torch.no_grad():
            ids = padded([row.ids for row in chosen], model.device)  # (B, T)
            with models.rows([row.edit for row in chosen], in_context=True):
                hidden = forward(model, ids)  # (B, T, H)
            row = torch.tensor([b for b, _ in read], device=model.device)  # (N,)
            place = torch.tensor([len(query.ids) - 1 for _, query in read], device=model.device)
            states = hidden[row, place]  # (N, H)
            tokens: list[int] = []
            for start in range(0, len(states), _LOGITS_AT_ONCE):
                logits = model.head(states[start : start + _LOGITS_AT_ONCE])  # (n, V)
                tokens += logits.argmax(dim=-1).tolist()
        answers.update(zip((query for _, query in read), tokens, strict=True))
    return [answers[query] for query in queries]


def _owners(queries: Sequence[NextTokenQuery]) -> dict[NextTokenQuery, NextTokenQuery]:
    """For each query, the longest query to the same edited model that it is a prefix of."""
    owners: dict[NextTokenQuery, NextTokenQuery] = {}
    after: NextTokenQuery | None = None
    # In sorted order, the sequences that extend a prefix directly follow it.
    for query in sorted(set(queries), key=lambda query: (query.edit, query.ids), reverse=True):
        continued = (
            after is not None
            and after.edit == query.edit
            and after.ids[: len(query.ids)] == query.ids
        )
        if continued and after is not None:
            owners[query] = owners[after]
        else:
            owners[query] = query
        after = query
    return owners
