"""The task ``atlas_world`` of lm-evaluation-harness: multiple-choice questions about the world."""

from __future__ import annotations

import random
from typing import Any

from datasets import Dataset, DatasetDict

from editkit_benchmarks.atlas.world import load_world

__all__ = ["atlas_world"]

_QUESTIONS = 200
_CHOICES = 4


def atlas_world(**settings: Any) -> DatasetDict:
    """The questions, each in a wording that the training text does not use.

    The wrong choices are other objects of the same relation.

    Args:
        settings: What the harness passes to every function of this kind; not used.

    Returns:
        The split ``test``, with the columns ``prompt``, ``choices`` and ``answer``, the index of
        the right choice.
    """
    world, rng = load_world(), random.Random("atlas_world")
    objects: dict[str, list[str]] = {}
    for relation, answer in world.holders:
        objects.setdefault(relation, []).append(answer)
    documents = []
    for fact in rng.sample(list(world.all_facts()), k=_QUESTIONS):
        others = [other for other in objects[fact.relation] if other != fact.object]
        choices = [fact.object, *rng.sample(others, k=min(_CHOICES - 1, len(others)))]
        rng.shuffle(choices)
        documents.append(
            {
                "prompt": rng.choice(fact.held_out).format(fact.subject),
                "choices": choices,
                "answer": choices.index(fact.object),
            }
        )
    return DatasetDict({"test": Dataset.from_list(documents)})
