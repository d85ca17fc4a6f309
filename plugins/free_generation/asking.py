"""The prompts of records, as they are asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from editkit import EditRequest, Probe, Record
from editkit.editing.edited_models import CandidateQuery, GenerationQuery
from editkit_plugins.free_generation.config import Frame

KINDS = ("rewrite", "paraphrase", "neighborhood")
"""Kinds of prompts. At neighbours, the old object is right, at the others the new one."""

_QUESTION = "Please answer the question:\n\nQ: {}\nA:"  # qa_inst of the published code


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt of a record.

    Attributes:
        edit: Number of the edited model that is asked.
        kind: Its kind.
        text: The record's prompt.
        asked: What the model is asked: the prompt in its frame.
        chat: Whether that is a user's turn in a chat.
        answers: Candidates; one of them is right.
        place: The place of the right one.
        separator: Text between prompt and answer.
    """

    edit: int
    kind: str
    text: str
    asked: str
    chat: bool
    answers: tuple[str, ...]
    place: int
    separator: str | None

    @property
    def answer(self) -> str:
        """The right answer."""
        return self.answers[self.place]

    @property
    def generation(self) -> GenerationQuery:
        """The prompt, to be continued."""
        return GenerationQuery(self.edit, self.asked, chat=self.chat)

    @property
    def candidates(self) -> CandidateQuery:
        """The prompt with its answers.

        Without a frame, it equals the query of CounterFact's metrics, so that the work is shared.
        """
        return CandidateQuery(self.edit, self.asked, self.answers, self.separator, self.chat)

    def with_text(self, text: str) -> str:
        """The prompt with what the model wrote, as it is stored."""
        return f"{self.text}{chr(10) if self.chat else ' '}{text}".strip()


def prompts_of(records: Sequence[Record], frame: Frame) -> list[Prompt]:
    """All prompts of some records; edit ``i`` is that of record ``i``.

    A record with several edits is asked for all of them: a request without a probe of its own at
    its prompt counts as one.
    """
    return [
        _framed(edit, kind, item, frame)
        for edit, record in enumerate(records)
        for kind in KINDS
        for item in _items(record, kind)
    ]


def _items(record: Record, kind: str) -> Iterator[Probe | EditRequest]:
    yield from record.probes.get(kind, ())
    if kind == "rewrite":
        yield from record.unprobed


def _framed(edit: int, kind: str, item: Probe | EditRequest, frame: Frame) -> Prompt:
    answers: tuple[str, ...]
    if isinstance(item, EditRequest):
        text, answers, place = item.sentence, (item.target_new,), 0
    else:
        text, answers = item.prompt, (item.target_true, item.target_new)
        place = 0 if kind == "neighborhood" else 1
    return Prompt(
        edit,
        kind,
        text,
        asked=_QUESTION.format(text) if frame == "question" else text,
        chat=item.chat or frame == "chat",
        answers=answers,
        place=place,
        separator=item.separator,
    )
