"""Asking edited models open questions, and executing tests of consequences.

Questions to many edited models are answered in shared batches. The answers of an unedited model are
kept by its fingerprint: conditions, and whatever else is compared with the model before the edit,
are asked once, not once per editor and batch.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from editkit.consequences import Consequence, OpenQuestion
from editkit.editing.edited_models import EditedModels
from editkit.editing.greedy import end_tokens, greedy_continuations
from editkit.editing.queries import GenerationQuery
from editkit.editing.stops import Stop
from editkit.matching import MATCHES, Match

__all__ = [
    "Ask",
    "Outcome",
    "Right",
    "free_answers",
    "outcomes",
    "outcomes_with",
    "passes",
    "unedited_answers",
]

Ask: TypeAlias = Callable[[EditedModels, Sequence[tuple[int, OpenQuestion]]], list[str]]
"""What edited models answer to pairs of an edited model's number and a question."""

Right: TypeAlias = Callable[[str, OpenQuestion], bool]
"""Whether a text is right as the answer to a question."""

_Asked: TypeAlias = tuple[tuple[object, ...], str, bool]
"""The model with everything that ends its texts, a prompt, and whether it is a user's turn."""

_KEPT = 100_000  # answers of unedited models; short texts, about 20 MB
_known: OrderedDict[_Asked, str] = OrderedDict()
_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one test went.

    Attributes:
        passed: Whether the edited model passed it; None if a condition failed, so that it was not
            executed.
        texts: What the edited model answered to each question; empty if it was not asked.
    """

    passed: bool | None
    texts: tuple[str, ...] = ()


def free_answers(
    models: EditedModels, questions: Sequence[tuple[int, OpenQuestion]], stop: Stop
) -> list[str]:
    """What edited models answer, each text up to its end.

    Args:
        models: The edited models. Those without any edit answer as in :func:`unedited_answers`.
        questions: Pairs of an edited model's number and a question, in any order.
        stop: Where a text ends.
    """
    edited = [bool(delta.changes) or delta.context is not None for delta in models.deltas]
    before = [each for edit, each in questions if not edited[edit]]
    after = [(edit, each) for edit, each in questions if edited[edit]]
    unedited, others = (
        iter(unedited_answers(models, before, stop)),
        iter(_asked(models, after, stop)),
    )
    return [next(others if edited[edit] else unedited) for edit, _ in questions]


def unedited_answers(
    models: EditedModels, questions: Sequence[OpenQuestion], stop: Stop
) -> list[str]:
    """What the unedited model answers, each text up to its end; a known answer is not asked again.

    Args:
        models: Edited models, of which the unedited one answers.
        questions: The questions, in any order.
        stop: Where a text ends.
    """
    if not questions:
        return []
    model = models.model
    fingerprint = model.fingerprint
    identities = {
        chat: (fingerprint, model.dtype, model.device, stop, end_tokens(model, chat=chat))
        for chat in {each.chat for each in questions}
    }
    answers: dict[_Asked, str | None] = {}
    new: dict[_Asked, OpenQuestion] = {}
    keys = [(identities[each.chat], each.prompt, each.chat) for each in questions]
    with _lock:
        for key, question in zip(keys, questions, strict=True):
            answers[key] = _known.get(key)
            if answers[key] is None:
                new[key] = question
            else:
                _known.move_to_end(key)
    asked = [(0, each) for each in new.values()]
    written = dict(zip(new, _asked(models.unedited(), asked, stop), strict=True))
    with _lock:
        _known.update(written)
        while len(_known) > _KEPT:
            _known.popitem(last=False)
    return [written[key] if key in written else str(answers[key]) for key in keys]


def _asked(
    models: EditedModels, questions: Sequence[tuple[int, OpenQuestion]], stop: Stop
) -> list[str]:
    queries = [GenerationQuery(edit, each.prompt, chat=each.chat) for edit, each in questions]
    texts = greedy_continuations(models, queries, new_tokens=stop.tokens, stop=stop)
    return [text.text for text in texts]


def passes(text: str, question: OpenQuestion, match: Match) -> bool:
    """Whether a text gives every answer of a question."""
    return all(MATCHES[match](text, spellings) for spellings in question.answers)


def outcomes(
    models: EditedModels,
    tests: Sequence[Mapping[str, Sequence[Consequence]]],
    *,
    match: Match,
    stop: Stop,
) -> list[dict[str, list[Outcome]]]:
    """Execute tests whose conditions the unedited model meets.

    With ``models.unedited()``, the same tests are executed on the model before any edit.

    Args:
        models: The edited models.
        tests: For each edited model, its tests by group.
        match: When a text gives an answer.
        stop: Where a text ends.

    Returns:
        For each edited model, the outcome of every test by group, in order.
    """
    return outcomes_with(
        models,
        tests,
        ask=lambda some, questions: free_answers(some, questions, stop),
        right=lambda text, question: passes(text, question, match),
    )


def outcomes_with(
    models: EditedModels,
    tests: Sequence[Mapping[str, Sequence[Consequence]]],
    *,
    ask: Ask,
    right: Right,
) -> list[dict[str, list[Outcome]]]:
    """:func:`outcomes` for protocols that ask questions and compare answers in their own way.

    Args:
        models: The edited models.
        tests: For each edited model, its tests by group.
        ask: Gives a text for each question. The conditions of all tests are asked of the unedited
            model number 0, each once; :func:`free_answers` keeps its answers for the next call.
        right: Whether the text is right.
    """
    every = [
        (edit, test) for edit, groups in enumerate(tests) for group in groups.values()
        for test in group
    ]  # fmt: skip
    conditions = list(dict.fromkeys(each for _, test in every for each in test.conditions))
    answers = ask(models.unedited(), [(0, each) for each in conditions])
    known = {each: right(text, each) for each, text in zip(conditions, answers, strict=True)}
    is_executed = [all(known[each] for each in test.conditions) for _, test in every]
    asked = [
        (edit, each) for edit, test in itertools.compress(every, is_executed)
        for each in test.questions
    ]  # fmt: skip
    texts = iter(ask(models, asked))
    done: list[Outcome] = []
    for (_, test), executed in zip(every, is_executed, strict=True):
        if not executed:
            done.append(Outcome(None))
            continue
        own = tuple(next(texts) for _ in test.questions)
        passed = [right(text, each) for text, each in zip(own, test.questions, strict=True)]
        done.append(Outcome(any(passed) if test.needs == "any" else all(passed), own))
    rest = iter(done)
    return [
        {name: [next(rest) for _ in group] for name, group in groups.items()} for groups in tests
    ]
