"""The rules of :mod:`editkit.matching` as judges: free, and the same on every machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from typing_extensions import override

from editkit import Attempt, Judge, Verdict
from editkit.matching import contained, exact
from editkit_plugins.judge.config import RuleConfig


class _RuleJudge(Judge[RuleConfig], ABC):
    """A text is right if it gives one spelling of each answer."""

    @abstractmethod
    def rule(self, text: str, spellings: Iterable[str]) -> bool:
        """Whether a text gives an answer."""

    def judge(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        """1 for a text that gives all answers, 0 for any other."""
        return [Verdict(float(self._is_right(attempt))) for attempt in attempts]

    def _is_right(self, attempt: Attempt) -> bool:
        return all(self.rule(attempt.text, spellings) for spellings in attempt.question.answers)


class ExactJudge(_RuleJudge):
    """A text is right if it is the answer, after normalisation."""

    @override
    def rule(self, text: str, spellings: Iterable[str]) -> bool:
        return exact(text, spellings)


class ContainedJudge(_RuleJudge):
    """A text is right if it contains the answer's words, after normalisation."""

    @override
    def rule(self, text: str, spellings: Iterable[str]) -> bool:
        return contained(text, spellings)
