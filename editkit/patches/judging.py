"""Whether single answers are as a good edit leaves them: the edited fact changed, others did not.

The edited prompt and its other wordings are good if the edited model answers them with the new
object: its own text gives it (``Paris``, ``the city of Paris``), and the old object is not more
probable. A neighbour or another fact of the subject is good if the edited model still gives the
object that the unedited one gave, right or wrong. Nothing is expected of other prompts.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from editkit.patches.answers import same_object, spoken_object
from editkit.patches.content import Answer, Check

__all__ = ["Judged", "gives", "judged"]

_QUOTES = "\"'“”‘’«»„*_`([{"
_WORD = re.compile(r"\w+|\S")


class Judged(NamedTuple):
    """A check, judged.

    Attributes:
        check: The check.
        good: Whether the edited model answers as it should; None where nothing is expected.
        expected: The answer that it should give; empty if it was not recorded.
        before: Probability of that answer before the edit; None if it was not measured.
        after: The same after the edit.
        rank: Rank of that answer's first token after the edit; None if it was not measured.
    """

    check: Check
    good: bool | None
    expected: str
    before: float | None
    after: float | None
    rank: int | None

    @property
    def fall(self) -> float:
        """How much probability the expected answer lost; negative if it gained some."""
        return (self.before or 0.0) - (self.after or 0.0)


def judged(check: Check) -> Judged:
    """Judge a check; its first answer is the one that is expected."""
    question, before, after = check.question, check.before, check.after
    expected = question.answers[0] if question.answers else ""
    good: bool | None = None
    if question.role in ("edit", "wording") and expected:
        new, old = _at(after.probabilities, 0), _at(after.probabilities, 1)
        overtaken = new is None or old is None or new >= old
        good = gives(after.text, expected, question.prompt) and overtaken
    elif question.role in ("neighbor", "subject"):
        good = _is_same(before, after, expected, question.prompt)
    return Judged(
        check,
        good,
        expected,
        _at(before.probabilities, 0),
        _at(after.probabilities, 0),
        after.ranks[0] if after.ranks else None,
    )


def gives(text: str, answer: str, prompt: str = "") -> bool:
    """Whether a text gives an answer: it begins with it, or names the same object.

    Args:
        text: A model's continuation of the prompt.
        answer: The answer: an object, or one with words in front, as in ``the city of Paris``.
        prompt: The prompt.
    """
    if _begins_with(text, answer):
        return True
    given, wanted = spoken_object(text, prompt), spoken_object(answer, prompt)
    return given is not None and wanted is not None and same_object(given.object, wanted.object)


def _begins_with(text: str, answer: str) -> bool:
    """Whether a text begins with an answer, as whole words; case and quotes do not count."""
    given, wanted = _plain(text), _plain(answer)
    if not wanted or not given.startswith(wanted):
        return False
    rest = given[len(wanted) :]
    # A script without spaces has no words that could be cut.
    return not (rest and wanted[-1].isascii() and wanted[-1].isalnum() and rest[0].isalnum())


def _is_same(before: Answer, after: Answer, expected: str, prompt: str) -> bool:
    """Whether an answer after the edit is the one from before it."""
    if expected and gives(after.text, expected, prompt):
        return True
    if expected and gives(before.text, expected, prompt):
        return False
    first, second = (_WORD.findall(_plain(answer.text))[:1] for answer in (before, after))
    return first == second


def _plain(text: str) -> str:
    return " ".join(text.split()).lstrip(_QUOTES).casefold()


def _at(values: tuple[float, ...], place: int) -> float | None:
    return values[place] if place < len(values) else None
