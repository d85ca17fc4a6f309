"""The rules that every judge keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from editkit.consequences import OpenQuestion
from editkit.errors import EditkitError
from editkit.interfaces import Judge
from editkit.judging import Attempt, Verdict
from editkit.testing.contract import Contract, ContractError, require
from editkit.testing.model_contract import UNICODE

__all__ = ["JudgeContract"]

_PLACE = OpenQuestion("The Space Needle is in the city of", (("Seattle", "Emerald City"),))
_CHAT = OpenQuestion("Who wrote Hamlet?", (("William Shakespeare",),), chat=True)
_BOTH = OpenQuestion("Official languages of Finland are", (("Finnish",), ("Swedish",)))
_RIGHT = (
    Attempt(_PLACE, "Seattle"),
    Attempt(_CHAT, "William Shakespeare"),
    Attempt(OpenQuestion("Two and two is", (("four", "4"),)), "four"),
)
_WRONG = (
    Attempt(_PLACE, "Paris"),
    Attempt(_CHAT, "Christopher Marlowe"),
    Attempt(OpenQuestion("Two and two is", (("four", "4"),)), "seven"),
)
_ODD = ("", "...", '{"score": 1}', "{} {answer} %s", "A", "word " * 500, *UNICODE)


class JudgeContract(Contract):
    """The rules for a judge; a subclass names it: ``plugin = "mine"``."""

    kind = "judge"
    base = Judge

    def judge(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        """Build the judge, prepare it and ask it."""
        judge = self.make()
        judge.prepare()
        verdicts: list[Verdict] = judge.judge(attempts)
        require(
            isinstance(verdicts, list) and all(isinstance(each, Verdict) for each in verdicts),
            f"judge() returned {verdicts!r:.80}, expected a list of editkit.Verdict.",
        )
        require(
            len(verdicts) == len(attempts),
            f"judge() returned {len(verdicts)} verdicts for {len(attempts)} attempts.",
        )
        return verdicts

    def scores(self, attempts: Sequence[Attempt]) -> list[float]:
        """The scores of attempts, which must all have one."""
        verdicts = self.judge(attempts)
        for attempt, verdict in zip(attempts, verdicts, strict=True):
            require(
                verdict.score is not None,
                f"{attempt.text!r} after {attempt.question.prompt!r} has no score: "
                f"{verdict.problem}.",
            )
        return [verdict.score for verdict in verdicts if verdict.score is not None]

    # ------------------------------------------------------------ the spec

    def test_protocol_is_named(self) -> None:
        """The spec names the protocol of the judge.

        Describe the procedure in a few words, with a version ("mine/three-votes/v1"): it becomes
        part of the protocol of every metric that asks the judge.
        """
        spec: Any = self.offer().spec
        require(spec.protocol.strip(), f"the spec's protocol is {spec.protocol!r}.")

    # ------------------------------------------------------------ verdicts

    def test_one_verdict_per_attempt(self) -> None:
        """judge() returns one Verdict per attempt.

        Judge every attempt, also one that repeats an earlier one.
        """
        self.judge([*_RIGHT, *_WRONG, _RIGHT[0]])

    def test_no_attempts_no_verdicts(self) -> None:
        """judge() returns an empty list for no attempts.

        Return [] before anything is asked.
        """
        verdicts = self.make().judge([])
        require(verdicts == [], f"judge() returned {verdicts!r}, expected [].")

    def test_right_answers_score_higher(self) -> None:
        """The answer that was wanted scores higher than another one.

        Compare the text with attempt.question.answers.
        """
        self._require_higher(_RIGHT, _WRONG)

    def test_any_spelling_is_right(self) -> None:
        """An answer is right in any of its spellings.

        Each of attempt.question.answers is a tuple of spellings, of which one is enough.
        """
        self._require_higher([Attempt(_PLACE, "Emerald City")], [Attempt(_PLACE, "Paris")])

    def test_every_answer_is_needed(self) -> None:
        """A question with several answers wants all of them.

        Require one spelling of each of attempt.question.answers. This does not apply to a judge
        that refuses such questions: give them a verdict without a score.
        """
        both, one = Attempt(_BOTH, "Finnish and Swedish"), Attempt(_BOTH, "Finnish and Danish")
        if any(verdict.score is None for verdict in self.judge([both, one])):
            return
        if self.scores([both]) == self.scores([one]) == [0.0]:  # only whole texts count
            return
        self._require_higher([both], [one])

    def test_attempts_are_independent(self) -> None:
        """Each attempt gets the same score alone, together with others, and in any order.

        Keep verdicts in the order of the attempts, and nothing between them.
        """
        attempts = [*_RIGHT, *_WRONG]
        together = self.scores(attempts)
        alone = [self.scores([attempt])[0] for attempt in attempts]
        require(alone == together, f"alone they score {alone}, together {together}.")
        backwards = self.scores(attempts[::-1])[::-1]
        require(backwards == together, f"in reverse order they score {backwards}, not {together}.")

    def test_any_text_is_judged(self) -> None:
        """Any text gets a verdict: empty, long, in any script, with any punctuation.

        Do not format prompts with str.format, and give what cannot be judged a verdict without a
        score.
        """
        attempts = [Attempt(question, text) for question in (_PLACE, _CHAT) for text in _ODD]
        try:
            self.judge(attempts)
        except EditkitError as error:
            raise ContractError(f"judge() refuses them all: {error}") from error

    def _require_higher(self, right: Sequence[Attempt], wrong: Sequence[Attempt]) -> None:
        scores = zip(self.scores(right), self.scores(wrong), strict=True)
        for good, bad, (high, low) in zip(right, wrong, scores, strict=True):
            require(
                high > low,
                f"after {good.question.prompt!r}, {good.text!r} scores {high} and {bad.text!r} "
                f"{low}.",
            )
