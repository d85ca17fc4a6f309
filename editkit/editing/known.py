"""What a model knows: a fact is known if greedy decoding writes its answer after the prompt.

Every token of the answer must be the most likely one, given the prompt and the tokens before it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from editkit.data_types import Fact
from editkit.errors import ModelError, RequestError
from editkit.models.encoding import Completion, padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import forward

__all__ = ["Recall", "recall"]

_FACTS_PER_PASS = 32
_LOGITS_AT_ONCE = 256  # positions; for a vocabulary of 50,000 about 50 MB


@dataclasses.dataclass(frozen=True)
class Recall:
    """How a model recalls a fact.

    Attributes:
        predicted: Whether greedy decoding writes the answer.
        probability: Probability of the answer after the prompt: the product over its tokens.
        problem: Why the model cannot be asked; empty if it can.
    """

    predicted: bool
    probability: float
    problem: str = ""


def recall(
    model: LanguageModel, facts: Sequence[Fact], *, batch: int = _FACTS_PER_PASS
) -> list[Recall]:
    """Ask a model for facts.

    A fact without an answer, one that does not fit into the model's context, and one that its
    tokenizer cannot encode are not known; ``problem`` has the reason.

    Args:
        model: The model, which runs in evaluation mode.
        facts: The facts.
        batch: Facts per forward pass.
    """
    recalls: dict[int, Recall] = {}
    asked: list[tuple[int, Completion]] = []
    for number, fact in enumerate(facts):
        try:
            asked.append((number, _completion(model, fact)))
        except (RequestError, ModelError) as error:
            recalls[number] = Recall(predicted=False, probability=0.0, problem=error.message)
    asked.sort(key=lambda pair: len(pair[1].prompt) + len(pair[1].target))  # little padding
    for start in range(0, len(asked), batch):
        numbers, completions = zip(*asked[start : start + batch], strict=True)
        recalls.update(zip(numbers, _recall(model, completions), strict=True))
    return [recalls[number] for number in range(len(facts))]


def _completion(model: LanguageModel, fact: Fact) -> Completion:
    if fact.answer is None:
        raise RequestError(
            f"the fact {fact.prompt!r} has no answer.", hint="Give it an answer to compare with."
        )
    [completion] = model.complete(
        [fact.prompt], [fact.answer], separators=fact.separator, chat=fact.chat
    )
    return completion


def _recall(model: LanguageModel, completions: Sequence[Completion]) -> list[Recall]:
    """One forward pass."""
    rows = [(*each.prompt, *each.target[:-1]) for each in completions]
    targets = [token for each in completions for token in each.target]
    places = [  # row and position of the state that predicts each target token
        (row, len(each.prompt) - 1 + i)
        for row, each in enumerate(completions)
        for i in range(len(each.target))
    ]
    hits: list[bool] = []
    log_probabilities: list[float] = []
    with model.frozen(), torch.no_grad():
        hidden = forward(model, padded(rows, model.device))  # (B, T, H)
        states = hidden[tuple(torch.tensor(places, device=hidden.device).T)]  # (N, H)
        wanted = torch.tensor(targets, device=hidden.device)  # (N,)
        for start in range(0, len(states), _LOGITS_AT_ONCE):
            part = slice(start, start + _LOGITS_AT_ONCE)
            logits = model.head(states[part])  # (n, V)
            hits += (logits.argmax(dim=-1) == wanted[part]).tolist()
            chosen = torch.log_softmax(logits, dim=-1).gather(1, wanted[part, None])  # (n, 1)
            log_probabilities += chosen[:, 0].tolist()
    recalls = []
    start = 0
    for each in completions:
        here = slice(start, start + len(each.target))
        recalls.append(Recall(all(hits[here]), math.exp(sum(log_probabilities[here]))))
        start = here.stop
    return recalls
