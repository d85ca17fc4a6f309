"""Recall: the share of facts that a model knows, by frequency, wording and relation."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from .world import Fact, World, load_world

QUARTERS = ("most frequent quarter", "second quarter", "third quarter", "least frequent quarter")


@dataclass(frozen=True)
class Recall:
    """Shares of prompts that the model continues greedily with the whole object.

    Attributes:
        overall: Over all prompts.
        seen: Over wordings that the training text used for the fact.
        held_out: Over wordings that it never used for the fact.
        by_quarter: By quarter of the subjects, ranked by frequency.
        by_relation: By relation id.
        prompts: Number of prompts.
    """

    overall: float
    seen: float
    held_out: float
    by_quarter: dict[str, float]
    by_relation: dict[str, float]
    prompts: int


@torch.inference_mode()
def whole_object_correct(
    model: PreTrainedModel,
    tokenize: Callable[[str], list[int]],
    questions: Sequence[tuple[str, str]],
    batch_size: int = 128,
) -> list[bool]:
    """For each (prompt, object), whether every token of " object" is the argmax.

    With teacher forcing, that is the case exactly when greedy decoding writes the object.
    """
    encoded = []
    for prompt, value in questions:
        head, tail = tokenize(prompt), tokenize(" " + value)
        encoded.append((head, tail))
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i][0]) + len(encoded[i][1]))
    correct = [False] * len(encoded)
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        longest = max(len(encoded[i][0]) + len(encoded[i][1]) for i in chosen)
        ids = torch.zeros(len(chosen), longest, dtype=torch.long)  # (B, T), padded on the right
        for row, i in enumerate(chosen):
            whole = encoded[i][0] + encoded[i][1]
            ids[row, : len(whole)] = torch.tensor(whole)
        best = model(ids).logits.argmax(-1)  # (B, T)
        for row, i in enumerate(chosen):
            head, tail = encoded[i]
            predicted = best[row, len(head) - 1 : len(head) + len(tail) - 1].tolist()
            correct[i] = predicted == tail
    return correct


def _ask(fact: Fact, rng: random.Random) -> list[tuple[str, bool]]:
    """The held-out wordings and as many seen ones, as (wording, whether seen)."""
    seen = rng.sample(fact.seen, k=len(fact.held_out))
    return [(wording, True) for wording in seen] + [(wording, False) for wording in fact.held_out]


def measure_recall(
    model_folder: Path, *, facts: int | None = None, seed: int = 0, world: World | None = None
) -> Recall:
    """Measure the recall of a saved model.

    Args:
        model_folder: Folder with the model and its tokenizer.
        facts: Number of facts to sample; all by default.
        seed: Seed of the sample and of the choice of seen wordings.
        world: The facts; by default the embedded world.

    Returns:
        Shares between 0 and 1.
    """
    if not (model_folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{model_folder} has no config.json; expected a folder written by "
            "'editkit atlas train': train one, or name its folder with --model"
        )
    world = world or load_world()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    rng = random.Random(f"atlas-recall-{seed}")
    every = list(world.all_facts())
    chosen = every if facts is None else rng.sample(every, k=min(facts, len(every)))
    asked = [(fact, *wording) for fact in chosen for wording in _ask(fact, rng)]
    questions = [(wording.format(fact.subject), fact.object) for fact, wording, _ in asked]
    correct = whole_object_correct(model, lambda text: tokenizer(text)["input_ids"], questions)

    def share(of: Callable[[Fact, bool], bool]) -> float:
        chosen = [
            right for (fact, _, seen), right in zip(asked, correct, strict=True) if of(fact, seen)
        ]
        return sum(chosen) / len(chosen) if chosen else float("nan")

    size = len(world.subjects)
    quarter = {name: 4 * subject.rank // size for name, subject in world.subjects.items()}
    return Recall(
        overall=share(lambda fact, seen: True),
        seen=share(lambda fact, seen: seen),
        held_out=share(lambda fact, seen: not seen),
        by_quarter={
            name: share(functools.partial(_in_quarter, quarter, place))
            for place, name in enumerate(QUARTERS)
        },
        by_relation={key: share(functools.partial(_has_relation, key)) for key in world.relations},
        prompts=len(asked),
    )


def _in_quarter(quarters: Mapping[str, int], place: int, fact: Fact, seen: bool) -> bool:
    return quarters[fact.subject] == place


def _has_relation(relation: str, fact: Fact, seen: bool) -> bool:
    return fact.relation == relation
