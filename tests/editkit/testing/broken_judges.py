"""Judges that break one rule each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from editkit import Attempt, RequestError, Verdict
from tests.editkit.testing.in_process_plugins import Broken, collector
from tests.editkit.testing.sound_judge import SoundJudge

CASES: list[Broken] = [
    Broken("judge", "test_protocol_is_named", "empty", "protocol is ''", {"protocol": ""}),
]
breaks = collector("judge", CASES)


@breaks("one_verdict_per_attempt", "6 verdicts for 7 attempts")
class JudgesOnce(SoundJudge):
    def judge(self, attempts: Sequence[Attempt]) -> list[Any]:
        return super().judge(list(dict.fromkeys(attempts)))


@breaks("one_verdict_per_attempt", "expected a list of editkit.Verdict")
class PlainNumbers(SoundJudge):
    def judge(self, attempts: Sequence[Attempt]) -> list[Any]:
        return [verdict.score for verdict in super().judge(attempts)]


@breaks("no_attempts_no_verdicts", "returned None")
class NoneForNone(SoundJudge):
    def judge(self, attempts: Sequence[Attempt]) -> Any:
        return super().judge(attempts) or None


@breaks("right_answers_score_higher", "'Seattle' scores 1.0 and 'Paris' 1.0")
class Praises(SoundJudge):
    def verdict(self, attempt: Attempt) -> Verdict:
        return Verdict(float(bool(attempt.text)))


@breaks("right_answers_score_higher", "has no score: not my subject")
class Declines(SoundJudge):
    def verdict(self, attempt: Attempt) -> Verdict:
        return Verdict(None, problem="not my subject")


@breaks("any_spelling_is_right", "'Emerald City' scores 0.0")
class KnowsFirstSpelling(SoundJudge):
    def verdict(self, attempt: Attempt) -> Verdict:
        return Verdict(float(attempt.text == attempt.question.answers[0][0]))


@breaks("every_answer_is_needed", "'Finnish and Swedish' scores 1.0")
class OneIsEnough(SoundJudge):
    def verdict(self, attempt: Attempt) -> Verdict:
        spellings = [each for answer in attempt.question.answers for each in answer]
        return Verdict(float(any(each in attempt.text for each in spellings)))


@breaks("attempts_are_independent", "alone they score")
class GradesOnACurve(SoundJudge):
    def judge(self, attempts: Sequence[Attempt]) -> list[Any]:
        return [Verdict((verdict.score or 0.0) / len(attempts))
                for verdict in super().judge(attempts)]  # fmt: skip


@breaks("attempts_are_independent", "in reverse order they score")
class BestFirst(SoundJudge):
    def judge(self, attempts: Sequence[Attempt]) -> list[Any]:
        return sorted(super().judge(attempts), key=lambda verdict: -(verdict.score or 0.0))


@breaks("any_text_is_judged", "KeyError")
class FormatsTexts(SoundJudge):
    def verdict(self, attempt: Attempt) -> Verdict:
        _ = ("Is this right? " + attempt.text).format()
        return super().verdict(attempt)


@breaks("any_text_is_judged", "judge() refuses them all")
class RefusesBlanks(SoundJudge):
    def verdict(self, attempt: Attempt) -> Verdict:
        if not attempt.text:
            raise RequestError("the text is empty.")
        return super().verdict(attempt)
