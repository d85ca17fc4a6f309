"""The metric ``judged``: a judge decides about what edited models write::

    texts    greedy, each up to its stop, after rewrite, paraphrase and neighborhood prompts
             (of a record with several edits, after the prompt of each)
    wanted   the new object, or at neighborhood prompts the true one, in any of its spellings
    score    mean of the judge's scores over a record's prompts of one kind

The judge is part of the metric's configuration, and so of the key of stored results.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from editkit import (
    Attempt,
    EditedModels,
    EditkitError,
    LanguageModel,
    Metric,
    MetricRow,
    OpenQuestion,
    PluginError,
    Record,
    Verdict,
    make_judge,
)
from editkit.editing.open_questions import free_answers
from editkit.editing.stops import Stop
from editkit_plugins.judge.config import JudgedConfig

KINDS = ("rewrite", "paraphrase", "neighborhood")


class UndecidedError(EditkitError):
    """A judge has no verdict on one text; its record fails."""


class Judged(Metric[JudgedConfig]):
    """Scores of a judge, with its questions and replies; no text is judged twice in a run."""

    def __init__(self, config: JudgedConfig) -> None:
        super().__init__(config)
        self._judge = make_judge(config.judge, **config.judge_config)
        self._verdicts: dict[Attempt, Verdict] = {}

    def check(self, model: LanguageModel) -> None:
        """Refuse a model without a chat template if questions are asked in one."""
        if self.config.frame == "chat":
            _ = model.chat_template

    def prepare(self, texts: Mapping[str, Sequence[str]]) -> None:
        """Check what the judge needs."""
        self._judge.prepare()

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The scores of each record, and what the model wrote and the judge was sent and replied.

        Raises:
            UndecidedError: The judge has no verdict on a text.
            JudgeError: The judge cannot decide anything.
        """
        asked = [
            (edit, kind, question)
            for edit, record in enumerate(records)
            for kind in KINDS
            for question in _questions(record, kind, chat=self.config.frame == "chat")
        ]
        stop = Stop(self.config.stop, self.config.tokens)
        texts = free_answers(models, [(edit, question) for edit, _, question in asked], stop)
        attempts = [
            Attempt(question, text) for (_, _, question), text in zip(asked, texts, strict=True)
        ]
        self._ask(attempts)
        judged: list[dict[str, list[Attempt]]] = [defaultdict(list) for _ in records]
        for (edit, kind, _), attempt in zip(asked, attempts, strict=True):
            judged[edit][kind].append(attempt)
        return [self._row(of_record) for of_record in judged]

    def _ask(self, attempts: Iterable[Attempt]) -> None:
        """Get the verdicts that are not known yet."""
        new = [each for each in dict.fromkeys(attempts) if each not in self._verdicts]
        if not new:
            return
        verdicts = self._judge.judge(new)
        if len(verdicts) != len(new) or not all(isinstance(v, Verdict) for v in verdicts):
            raise PluginError(
                f"judge {self.config.judge!r} returned {verdicts!r:.80} for {len(new)} texts, "
                "expected one Verdict for each.",
                hint=f"'editkit check-plugin {self.config.judge}' names the broken rule.",
            )
        decided = ((a, v) for a, v in zip(new, verdicts, strict=True) if v.score is not None)
        self._verdicts.update(decided)
        for attempt, verdict in zip(new, verdicts, strict=True):
            if verdict.score is None:
                raise UndecidedError(
                    f"judge {self.config.judge!r} has no verdict on {attempt.text!r:.60} after "
                    f"{attempt.question.prompt!r:.60}: {verdict.problem}."
                )

    def _row(self, by_kind: Mapping[str, Sequence[Attempt]]) -> MetricRow:
        row: dict[str, float | list[float] | list[str]] = {}
        for kind, attempts in by_kind.items():
            verdicts = [self._verdicts[attempt] for attempt in attempts]
            scores = [float(v.score) for v in verdicts if v.score is not None]
            row[f"judged/{kind}"] = fmean(scores)
            row[f"judged/{kind}_scores"] = scores
            row[f"judged/{kind}_texts"] = [_as_stored(attempt) for attempt in attempts]
            if any(verdict.sent or verdict.received for verdict in verdicts):
                row[f"judge/{kind}_sent"] = [verdict.sent for verdict in verdicts]
                row[f"judge/{kind}_received"] = [verdict.received for verdict in verdicts]
        return row


def _questions(record: Record, kind: str, *, chat: bool) -> list[OpenQuestion]:
    """The prompts of a kind, each with the answer that it should get after the edit."""
    neighbour = kind == "neighborhood"
    asked = [
        (probe.prompt, probe.target_true if neighbour else probe.target_new, probe.chat)
        for probe in record.probes.get(kind, ())
    ]
    if kind == "rewrite":
        asked += [(each.sentence, each.target_new, each.chat) for each in record.unprobed]
    return [
        OpenQuestion(prompt, (record.spellings(answer),), chat or own)
        for prompt, answer, own in asked
    ]


def _as_stored(attempt: Attempt) -> str:
    """The prompt with what the model wrote."""
    separator = "\n" if attempt.question.chat else " "
    return f"{attempt.question.prompt}{separator}{attempt.text}".strip()
