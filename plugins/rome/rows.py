"""The rows that one request is optimised on, as tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from editkit import EditRequest
from editkit.models import LanguageModel
from editkit.prompts import fill, subject_span
from editkit_plugins.rome.config import RomeConfig


@dataclasses.dataclass(frozen=True)
class Row:
    """One input row.

    Attributes:
        ids: Tokens that are run.
        position: Index of the edited token.
        read: Index of the first token whose prediction is read.
        labels: Tokens that should be predicted from ``read`` on; empty in the essence row.
    """

    ids: tuple[int, ...]
    position: int
    read: int
    labels: tuple[int, ...] = ()

    def up_to_the_edited_token(self) -> Row:
        """The same without what comes after the edited token, where only its key is wanted."""
        return Row(self.ids[: self.position + 1], self.position, self.position)


@dataclasses.dataclass(frozen=True)
class RequestRows:
    """All rows of a request.

    Attributes:
        contexts: Context, prompt, and target but for its last token: the rows whose likelihood of
            the target is the loss. The bare prompt, if it is one of them, comes first.
        essence: The prompt about the subject's essence.
        others: Rows that are run once, for the key and the output at the edited token.
        keys: Which of ``(*contexts, *others)`` are averaged to the key k*.
        bare: Which of them is the bare prompt.
    """

    contexts: tuple[Row, ...]
    essence: Row
    others: tuple[Row, ...]
    keys: tuple[int, ...]
    bare: int

    @property
    def all(self) -> tuple[Row, ...]:
        """The rows of the loss: context rows, then the essence row."""
        return (*self.contexts, self.essence)


def request_rows(
    model: LanguageModel, request: EditRequest, contexts: Sequence[str], config: RomeConfig
) -> RequestRows:
    """Encode a request in all contexts.

    Args:
        model: The model.
        request: The request.
        contexts: The empty context, then the others.
        config: Says over which of them the key and the loss are.

    Raises:
        RequestError: No token covers the subject.
        ModelError: A row is longer than the model's context.
    """
    start, end = request.subject_span
    rows = []
    for context in contexts:
        [sentence] = model.requested([request], context)
        span = (len(context) + start, len(context) + end)
        rows.append(
            Row(
                ids=sentence.encoding.ids[:-1],
                position=sentence.prompt.position(span, config.position),
                read=sentence.cut - 1,
                labels=sentence.target,
            )
        )
    essence = fill(config.kl_prompt, request.subject)
    within = subject_span(config.kl_prompt, request.subject)
    [last] = model.read([essence], chat=request.chat, subjects=[within])
    position = last.position(within, config.position)
    read = position if config.kl_position == "subject_last" else len(last) - 1
    subjects = _subject_rows(model, request, contexts, config)
    return _arranged(rows, subjects, Row(last.ids[: read + 1], position, read), config)


def _subject_rows(
    model: LanguageModel, request: EditRequest, contexts: Sequence[str], config: RomeConfig
) -> list[Row]:
    """Each context and the subject alone, where keys are read from such texts; else none."""
    if config.key_text == "prompt":
        return []
    rows = []
    texts = [context + request.subject for context in contexts]
    spans = [(len(context), len(text)) for context, text in zip(contexts, texts, strict=True)]
    encodings = model.read(texts, chat=request.chat, subjects=spans)
    for span, encoding in zip(spans, encodings, strict=True):
        model.check_length(encoding)
        position = encoding.position(span, config.position)
        rows.append(Row(encoding.ids, position, position).up_to_the_edited_token())
    return rows


def _arranged(
    prompts: Sequence[Row], subjects: Sequence[Row], essence: Row, config: RomeConfig
) -> RequestRows:
    """Which rows the loss and the key are over; one for each context, the bare one first."""
    everywhere = range(len(prompts))
    sampled = everywhere[1:]
    in_loss = [
        *([0] if config.bare_context or not config.value_contexts else []),
        *(sampled if config.value_contexts else []),
    ]
    in_key = everywhere if config.bare_context else sampled
    read_at = [i for i in everywhere if i not in in_loss and (i == 0 or not subjects)]
    others = [prompts[i].up_to_the_edited_token() for i in read_at]
    place = {i: n for n, i in enumerate((*in_loss, *read_at))}
    if subjects:
        keys = tuple(len(place) + n for n in range(len(in_key)))
        others += [subjects[i] for i in in_key]
    else:
        keys = tuple(place[i] for i in in_key)
    contexts = tuple(prompts[i] for i in in_loss)
    return RequestRows(contexts, essence, tuple(others), keys, place[0])
