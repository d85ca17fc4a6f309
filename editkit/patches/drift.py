"""How far edits move a model on prompts that have nothing to do with them.

The prompts are a fixed list, in ``unrelated.txt``: beginnings of plain sentences on everyday
subjects, most of them English. For each one, KL(unedited || edited) of the next token, in nats
(:mod:`editkit.editing.next_tokens`).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from editkit.editing.deltas import WeightDelta
from editkit.editing.edited_models import EditedModels
from editkit.editing.next_tokens import bounded, kl_divergences, next_log_p, prompts_as_read
from editkit.errors import RequestError
from editkit.patches.content import Movement

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel

__all__ = ["movements", "unrelated_prompts"]


@functools.cache
def unrelated_prompts() -> tuple[str, ...]:
    """The fixed prompts."""
    file = importlib.resources.files(__package__) / "unrelated.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())


@dataclasses.dataclass(frozen=True)
class _Query:
    edit: int
    place: int  # of the prompt
    ids: tuple[int, ...]


def movements(model: LanguageModel, deltas: Sequence[WeightDelta]) -> list[tuple[Movement, ...]]:
    """How far each edit moves the next token after unrelated prompts, all in shared batches.

    Prompts that the tokenizer cannot read, or that do not fit into the model's context, are left
    out.

    Args:
        model: The unedited model, or a model with applied edits, which then is the reference.
        deltas: The edits.

    Returns:
        One tuple per edit, one movement per prompt, in the order of the list.

    Raises:
        DeltaError: An edit does not fit the model, or a prompt is longer than the model's context
            because of the texts that an edit puts before it.
    """
    prompts = [prompt for prompt in unrelated_prompts() if _is_readable(model, prompt)]
    models = EditedModels(model, deltas)
    alone = EditedModels(model, [WeightDelta({}, None, "none", {}, model.fingerprint)])
    before = [_Query(0, place, ids) for place, ids in enumerate(prompts_as_read(alone, 0, prompts))]
    unedited = dict(_distributions(alone, before))  # place -> (V,)
    queries = [
        _Query(edit, place, ids)
        for edit in range(len(deltas))
        for place, ids in enumerate(prompts_as_read(models, edit, prompts))
    ]

    def ask(some: EditedModels, asked: Sequence[_Query]) -> list[tuple[float, int]]:
        answers: dict[_Query, tuple[float, int]] = {}
        for batch, log_p in next_log_p(some, asked):
            old = torch.stack([unedited[query.place] for query in batch]).to(log_p)  # (N, V)
            nats, tops = kl_divergences(old, log_p).tolist(), log_p.argmax(dim=-1).tolist()
            answers.update(zip(batch, zip(nats, tops, strict=True), strict=True))
        return [answers[query] for query in asked]

    moved: list[list[Movement]] = [[] for _ in deltas]
    for query, (nats, top) in zip(queries, models.answers(ask, queries), strict=True):
        first = int(unedited[query.place].argmax())
        texts = [str(model.tokenizer.decode([token])) for token in (first, top)]
        moved[query.edit].append(Movement(prompts[query.place], max(0.0, bounded(nats)), *texts))
    return [tuple(some) for some in moved]


def _is_readable(model: LanguageModel, prompt: str) -> bool:
    try:
        [encoding] = model.read([prompt])
    except RequestError:
        return False
    unknown = model.special.unknown
    return len(encoding) <= model.context_length and unknown not in encoding.ids


def _distributions(
    models: EditedModels, queries: Sequence[_Query]
) -> list[tuple[int, torch.Tensor]]:
    """The place and the log probabilities (V,) of each query, on the CPU."""
    return [
        (query.place, row.cpu())
        for batch, log_p in next_log_p(models, queries)
        for query, row in zip(batch, log_p, strict=True)
    ]
