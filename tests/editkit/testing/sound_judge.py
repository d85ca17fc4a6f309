"""A judge that keeps its contract: the share of the answers that a text names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from editkit import Attempt, Judge, Verdict
from tests.editkit.testing.configs import SeedConfig


class SoundJudge(Judge[SeedConfig]):
    def judge(self, attempts: Sequence[Attempt]) -> list[Any]:
        return [self.verdict(attempt) for attempt in attempts]

    def verdict(self, attempt: Attempt) -> Verdict:
        answers = attempt.question.answers
        named = [any(each in attempt.text for each in spellings) for spellings in answers]
        return Verdict(sum(named) / len(answers))
