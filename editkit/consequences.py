"""Open questions, and tests of what follows from an edit.

Knowing a fact is more than completing one sentence. If the Louvre were in Rome, then it would be in
Italy, too, and its opening year would be the same as before. A :class:`Consequence` is one such
test: questions that a model answers in words of its own, and what it must know beforehand for the
test to mean anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from editkit.errors import RequestError
from editkit.mistakes import expect_list
from editkit.prompts import check_chat, checked_text, clean_prompt
from editkit.reprs import changed_fields

__all__ = ["GROUPS", "Consequence", "OpenQuestion"]

GROUPS: Mapping[str, str] = {
    "aliases": "the edited fact, asked about another name of the subject",
    "logical_generalization": "facts that the relation itself implies (symmetry, inverse)",
    "compositionality_1": "a second relation of the new object, asked of the subject",
    "compositionality_2": "the edited relation, reached from another subject",
    "forgetfulness": "other objects of the same relation, which must remain",
    "relation_specificity": "other relations of the subject, which must remain",
    "multi_hop": "questions along a chain of facts, of which some were edited",
    "reversal": "the subject, asked from the new object",
}
"""Kinds of consequences that metrics know, and what they ask. A dataset may add its own."""


@dataclasses.dataclass(frozen=True)
class OpenQuestion:
    """A prompt that a model continues in words of its own.

    Attributes:
        prompt: The text that the model continues; spaces at its end are dropped.
        answers: The answers wanted, each as a tuple of spellings. A text gives the answers if it
            gives one spelling of each of them; most questions have one answer.
        chat: Whether the prompt is a user's turn in a chat.

    Raises:
        RequestError: A text cannot be used, or there is no answer, or one without a spelling.
    """

    prompt: str
    answers: tuple[tuple[str, ...], ...]
    chat: bool = False
    __repr__ = changed_fields

    def __post_init__(self) -> None:
        check_chat(self.chat)
        object.__setattr__(self, "prompt", clean_prompt(self.prompt, "prompt", None))
        if not _are_answers(self.answers):
            raise RequestError(
                f"answers of the question {self.prompt!r:.60} are {self.answers!r:.60}, expected "
                "at least one answer, each a tuple with at least one spelling.",
                hint="Write answers=(('Paris', 'City of Light'),).",
            )
        answers = tuple(
            tuple(checked_text(each, "answer").strip() for each in spellings)
            for spellings in self.answers
        )
        object.__setattr__(self, "answers", answers)

    def to_dict(self) -> dict[str, Any]:
        """The question as plain data; ``chat`` only if it is set."""
        data = {"prompt": self.prompt, "answers": [list(each) for each in self.answers]}
        return {**data, "chat": True} if self.chat else data


@dataclasses.dataclass(frozen=True)
class Consequence:
    """A test of one consequence of an edit.

    Attributes:
        questions: Asked of the edited model; at least one.
        needs: Whether ``any`` or ``all`` of the questions must be answered right.
        conditions: Asked of the unedited model. Unless it answers all of them right, the test is
            not executed: a model that does not know that Rome is in Italy cannot conclude from it.

    Raises:
        RequestError: There is no question.
    """

    questions: tuple[OpenQuestion, ...]
    needs: Literal["any", "all"] = "any"
    conditions: tuple[OpenQuestion, ...] = ()

    def __post_init__(self) -> None:
        call = "Consequence(questions, needs, conditions)"
        expect_list(self.questions, "OpenQuestion", "questions", call)
        expect_list(self.conditions, "OpenQuestion", "conditions", call)
        object.__setattr__(self, "questions", tuple(self.questions))
        object.__setattr__(self, "conditions", tuple(self.conditions))
        if not self.questions:
            raise RequestError(
                "a consequence has no questions, expected at least one.",
                hint="Leave out a consequence that nothing asks about.",
            )
        if self.needs not in ("any", "all"):
            raise RequestError(
                f"needs is {self.needs!r:.60}, expected 'any' or 'all'.",
                hint="Use 'any' for several wordings of one question.",
            )

    def to_dict(self) -> dict[str, Any]:
        """The test as plain data; ``conditions`` only if there are any."""
        data = {"questions": [each.to_dict() for each in self.questions], "needs": self.needs}
        if self.conditions:
            data["conditions"] = [each.to_dict() for each in self.conditions]
        return data


def _are_answers(value: object) -> bool:
    """Whether a value has lists of spellings; a text instead of a list is a common mistake."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(each, list | tuple) and each for each in value)
    )
