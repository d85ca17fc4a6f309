"""What a judge is asked, and what it decides.

A text can be right in words that no rule foresees: ``in the French capital`` for ``Paris``. A
:class:`~editkit.interfaces.Judge` compares what a model wrote with the answers that were wanted: by
a rule, with another model, or however else.
"""

from __future__ import annotations

import dataclasses

from editkit.consequences import OpenQuestion
from editkit.errors import UsageError
from editkit.mistakes import expect
from editkit.reprs import changed_fields

__all__ = ["Attempt", "Verdict"]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """An open question, and what a model wrote in answer to it.

    Attributes:
        question: The prompt, whether it was asked in a chat, and the answers wanted, each with its
            spellings.
        text: What the model wrote after the prompt, up to its end; may be empty.

    Raises:
        UsageError: A value has the wrong type.
    """

    question: OpenQuestion
    text: str
    __repr__ = changed_fields

    def __post_init__(self) -> None:
        call = "Attempt(question, text)"
        expect(self.question, "OpenQuestion", "question", call)
        expect(self.text, "text", "text", call)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a judge decided about an attempt.

    Attributes:
        score: From 0, wrong, to 1, right; None if the judge could not decide.
        sent: What the judge sent to a model or a person, if anything.
        received: What came back.
        problem: Why there is no score; empty if there is one.

    Raises:
        UsageError: The score is outside [0, 1], or is missing without a reason.
    """

    score: float | None
    sent: str = ""
    received: str = ""
    problem: str = ""
    __repr__ = changed_fields

    def __post_init__(self) -> None:
        for name in ("sent", "received", "problem"):
            expect(getattr(self, name), "text", name, "Verdict(score, sent, received, problem)")
        decided = isinstance(self.score, int | float) and 0 <= self.score <= 1
        if not (self.score is None if self.problem else decided):
            problem = f" and the problem {self.problem!r:.60}" if self.problem else ""
            expected = "a number from 0 to 1, or None and a problem"
            raise UsageError(
                f"a verdict has the score {self.score!r:.40}{problem}, expected {expected}.",
                hint="Write Verdict(1.0), or Verdict(None, problem='the reply is empty').",
            )
