"""MQuAKE's scores (Zhong et al. 2023, section 3.3), and how often the old answer remains.

For a record with the edits E, the hops H of the new chain, and the questions Q about its end::

    edit        |{e in E: the text after e's own prompt gives the new object}| / |E|
    instance    1 if all hops of H are answered right, else 0; hops the share of those that are
                (an edited hop is asked by the edit's prompt, any other one by its question)
    multi_hop   1 if at least one question of Q gets the new answer, else 0
    questions   share of Q that gets the new answer
    old_answer  share of Q that gets the old answer, and not the new one
    known       1 if the unedited model answers all hops of the original chain

The accuracies ``edit``, ``instance`` and ``multi_hop`` are MQuAKE's, the other scores are ours.
Texts are greedy. A frame and demonstrations are put around questions, never around edits' prompts.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from statistics import fmean

from editkit import (
    ConfigError,
    EditedModels,
    LanguageModel,
    Metric,
    MetricRow,
    OpenQuestion,
    Record,
)
from editkit.editing.open_questions import free_answers, unedited_answers
from editkit.editing.stops import Stop
from editkit.matching import contained, normalised
from editkit_plugins.mquake.config import MQuakeMetricConfig

_FRAMES = {"qa": "Q: {}\nA:", "qa-line": "Q: {} A:", "plain": "{}", "chat": "{}"}


_Text = tuple[str, bool]
"""A prompt as it is asked, and whether it is a user's turn in a chat."""


@dataclasses.dataclass(frozen=True)
class _Question:
    """A question as it is asked, with its answers.

    Attributes:
        bare: The prompt without frame and demonstrations.
        prompt: With them.
        chat: Whether it is a user's turn in a chat.
        spellings: Of the answer.
        is_edit: Whether it is the prompt of an edit.
    """

    bare: str
    prompt: str
    chat: bool
    spellings: tuple[str, ...]
    is_edit: bool = False

    @property
    def text(self) -> _Text:
        return self.prompt, self.chat

    def open(self) -> OpenQuestion:
        return OpenQuestion(self.prompt, (self.spellings,), self.chat)


@dataclasses.dataclass(frozen=True)
class _Questions:
    """Everything that is asked about a record.

    Attributes:
        edits: Each edit's prompt.
        hops: Each hop of the new chain.
        multi_hop: The questions about the end of the chain.
        old: The same questions, with the answer before the edits, if the record has it.
        original: Each hop of the original chain.
    """

    edits: tuple[_Question, ...]
    hops: tuple[_Question, ...]
    multi_hop: tuple[_Question, ...]
    old: tuple[_Question, ...]
    original: tuple[_Question, ...]


class MQuake(Metric[MQuakeMetricConfig]):
    """Edit-wise, instance-wise and multi-hop accuracy of records with multi-hop questions."""

    def __init__(self, config: MQuakeMetricConfig) -> None:
        super().__init__(config)
        self._stop = Stop(config.stop, config.tokens)

    @functools.cached_property
    def _demonstrations(self) -> str:
        path = self.config.demonstrations
        if path is None:
            return ""
        try:
            text = path.expanduser().read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"demonstrations {str(path)!r} cannot be read: {error}.",
                hint="Give a text file in UTF-8 with solved examples.",
            ) from None
        if not text.strip():
            raise ConfigError(
                f"demonstrations {str(path)!r} is empty.",
                hint="Write solved examples into it, or leave the field out.",
            )
        return text if text.endswith("\n") else f"{text}\n"

    def check(self, model: LanguageModel) -> None:
        """Refuse a model without a chat template if questions are asked in one."""
        if self.config.frame == "chat":
            _ = model.chat_template

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """Scores of each record with multi-hop questions.

        As details, 1 for each right edit, hop and question, and 0 for the others; and the texts.
        """
        rows: list[MetricRow] = [{} for _ in records]
        asked = {
            i: self._questions(record)
            for i, record in enumerate(records)
            if record.consequences.get("multi_hop")
        }
        known = self._known(models, asked)
        answers = self._answers(models, asked)
        for i, questions in asked.items():
            rows[i] = self._row(questions, answers[i], known.get(i))
        return rows

    # ------------------------------------------------------------ asking

    def _questions(self, record: Record) -> _Questions:
        edits = tuple(
            _Question(
                each.sentence,
                each.sentence,
                each.chat,
                record.spellings(each.target_new),
                is_edit=True,
            )
            for each in record.requests
        )
        prompts = {each.prompt for each in edits}

        def of_group(group: str) -> tuple[_Question, ...]:
            return tuple(
                _Question(each.prompt, each.prompt, each.chat, each.answers[0], is_edit=True)
                if group == "single_hops" and each.prompt in prompts
                else self._framed(each)
                for test in record.consequences.get(group, ())
                for each in test.questions
            )

        groups = ("single_hops", "multi_hop", "old_answer", "original_hops")
        return _Questions(edits, *map(of_group, groups))

    def _framed(self, question: OpenQuestion) -> _Question:
        framed = _FRAMES[self.config.frame].replace("{}", question.prompt, 1)
        return _Question(
            question.prompt,
            self._demonstrations + framed,
            question.chat or self.config.frame == "chat",
            question.answers[0],
        )

    def _answers(
        self, models: EditedModels, asked: Mapping[int, _Questions]
    ) -> dict[int, dict[_Text, str]]:
        """What each edited model answers, each prompt asked once."""
        prompts = {
            (i, each.text): each.open()
            for i, own in asked.items()
            for each in (*own.edits, *own.hops, *own.multi_hop)
        }
        texts = free_answers(models, [(i, each) for (i, _), each in prompts.items()], self._stop)
        answers: dict[int, dict[_Text, str]] = {i: {} for i in asked}
        for (i, prompt), text in zip(prompts, texts, strict=True):
            answers[i][prompt] = text
        return answers

    def _known(self, models: EditedModels, asked: Mapping[int, _Questions]) -> dict[int, bool]:
        """Whether the unedited model answers all hops of the original chain, if there are any."""
        pairs = [(i, each) for i, own in asked.items() for each in own.original]
        texts = unedited_answers(models, [each.open() for _, each in pairs], self._stop)
        known: dict[int, bool] = {}
        for (i, each), text in zip(pairs, texts, strict=True):
            known[i] = known.get(i, True) and self._is_right(each, text)
        return known

    # ------------------------------------------------------------ scoring

    def _is_right(self, question: _Question, text: str) -> bool:
        """Whether a text gives the answer; after an edit's prompt, it need only begin with it."""
        match, spellings = self.config.match, question.spellings
        if match == "contained":
            return contained(text, spellings)
        if match == "exact":
            text, spellings = normalised(text), tuple(filter(None, map(normalised, spellings)))
        if question.is_edit:
            return any(text.startswith(each) and _ends(text, len(each)) for each in spellings)
        return text in spellings

    def _row(
        self, asked: _Questions, answers: Mapping[_Text, str], known: bool | None
    ) -> dict[str, float | list[float] | list[str]]:
        def right(questions: Sequence[_Question]) -> list[float]:
            return [float(self._is_right(each, answers[each.text])) for each in questions]

        edits, hops, new, old = map(right, (asked.edits, asked.hops, asked.multi_hop, asked.old))
        row: dict[str, float | list[float] | list[str]] = {
            "mquake/edit": fmean(edits),
            "mquake/edits_right": edits,
            "mquake/questions_right": new,
            "mquake/texts_of_edits": _written(asked.edits, answers),
            "mquake/texts_of_questions": _written(asked.multi_hop, answers),
        }
        if hops:
            row |= {
                "mquake/instance": float(all(hops)),
                "mquake/hops": fmean(hops),
                "mquake/hops_right": hops,
            }
            if others := [each for each in asked.hops if not each.is_edit]:
                row["mquake/texts_of_hops"] = _written(others, answers)
        if known is not None:
            row["mquake/known"] = float(known)
        if known or self.config.instances == "all":
            row |= {"mquake/multi_hop": max(new), "mquake/questions": fmean(new)}
            if old:
                remains = [is_old * (1 - is_new) for is_old, is_new in zip(old, new, strict=True)]
                row["mquake/old_answer"] = fmean(remains)
        return row


def _ends(text: str, place: int) -> bool:
    """Whether a word ends at a place in a text."""
    return place == len(text) or not text[place].isalnum()


def _written(questions: Sequence[_Question], answers: Mapping[_Text, str]) -> list[str]:
    return [f"{each.bare} {answers[each.text]}" for each in questions]
