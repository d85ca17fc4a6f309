"""Asking edited models open questions, and executing tests of consequences.

Many edited models answer in one batch. A question that several records ask of the unedited model is
answered once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from editkit.consequences import Consequence, OpenQuestion
from editkit.editing.edited_models import EditedModels
from editkit.editing.greedy import greedy_continuations
from editkit.editing.queries import GenerationQuery
from editkit.editing.stops import Stop
from editkit.matching import MATCHES, Match

__all__ = ["Ask", "Outcome", "Right", "free_answers", "outcomes", "outcomes_with", "passes"]

Ask: TypeAlias = Callable[[EditedModels, Sequence[tuple[int, OpenQuestion]]], list[str]]
"""What edited models answer to pairs of an edited model's number and a question."""

Right: TypeAlias = Callable[[str, OpenQuestion], bool]
"""Whether a text is right as the answer to a question."""


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
        models: The edited models.
        questions: Pairs of an edited model's number and a question, in any order.
        stop: Where a text ends.
    """
    queries = [GenerationQuery(edit, each.prompt, chat=each.chat) for edit, each in questions]
    texts = greedy_continuations(models, queries, new_tokens=stop.tokens)
    return [stop.cut(text.text) for text in texts]


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
        ask: Gives a text for each question.
        right: Whether the text is right.
    """
    every = [
        (edit, test) for edit, groups in enumerate(tests) for group in groups.values()
        for test in group
    ]  # fmt: skip
    conditions = [(edit, each) for edit, test in every for each in test.conditions]
    known = {
        question: right(text, question)
        for (_, question), text in zip(conditions, ask(models.unedited(), conditions), strict=True)
    }
    executed = [
        (edit, test) for edit, test in every if all(known[each] for each in test.conditions)
    ]
    asked = [(edit, each) for edit, test in executed for each in test.questions]
    texts = iter(ask(models, asked))
    done: dict[tuple[int, Consequence], Outcome] = {}
    for edit, test in executed:
        own = tuple(next(texts) for _ in test.questions)
        passed = [right(text, each) for text, each in zip(own, test.questions, strict=True)]
        done[edit, test] = Outcome(any(passed) if test.needs == "any" else all(passed), own)
    return [
        {
            name: [done.get((edit, test), Outcome(None)) for test in group]
            for name, group in groups.items()
        }
        for edit, groups in enumerate(tests)
    ]
