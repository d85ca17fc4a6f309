"""The rows that ROME's key and value are computed from: a request in several contexts, as tokens.

With the contexts x_j, the subject s, and the prompt p of a request: the rows x_j + p of the loss,
the row of the essence prompt p' = "s is a", and the rows where keys are read. The equations are in
:mod:`editkit.editing.rome_value`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from editkit.data_types import EditRequest
from editkit.editing.generation import sampled_contexts
from editkit.editing.rome_value_config import ValueConfig
from editkit.models.language_model import LanguageModel
from editkit.prompts import fill, subject_span

__all__ = ["InputRow", "RequestRows", "request_rows", "sampled_or_given_contexts"]


def sampled_or_given_contexts(model: LanguageModel, config: ValueConfig) -> tuple[str, ...]:
    """The empty context, then the contexts in the config or, if none, sampled short texts."""
    if config.contexts is not None:
        return ("", *config.contexts)
    lengths, top_k, starts = config.context_lengths, config.context_top_k, config.context_starts
    return ("", *sampled_contexts(model, lengths, top_k=top_k, seed=config.seed, starts=starts))


@dataclasses.dataclass(frozen=True)
class InputRow:
    """One input row.

    Attributes:
        ids: Tokens to run.
        position: Index of the edited token.
        read: Index of the first token whose prediction is read.
        labels: Tokens to predict, starting at ``read``; empty in the essence row.
    """

    ids: tuple[int, ...]
    position: int
    read: int
    labels: tuple[int, ...] = ()

    def up_to_the_edited_token(self) -> InputRow:
        """The row truncated after the edited token, to read only its key."""
        return InputRow(self.ids[: self.position + 1], self.position, self.position)


@dataclasses.dataclass(frozen=True)
class RequestRows:
    """All rows of a request.

    Attributes:
        contexts: The rows of the loss (4a): context, prompt, and target without its last token. The
            bare prompt comes first, if included.
        essence: The row of the essence prompt (4b).
        others: Rows that are run once to read the key and the output at the edited token.
        keys: Indices into ``(*contexts, *others)`` of the rows averaged into the key k*.
        bare: Index into ``(*contexts, *others)`` of the bare prompt.
    """

    contexts: tuple[InputRow, ...]
    essence: InputRow
    others: tuple[InputRow, ...]
    keys: tuple[int, ...]
    bare: int

    @property
    def in_loss(self) -> tuple[InputRow, ...]:
        """The context rows, then the essence row."""
        return (*self.contexts, self.essence)

    @property
    def key_rows(self) -> tuple[InputRow, ...]:
        """The rows averaged into the key, truncated after the edited token."""
        rows = (*self.contexts, *self.others)
        return tuple(rows[i].up_to_the_edited_token() for i in self.keys)

    @property
    def bare_row(self) -> InputRow:
        """The bare prompt, truncated after the edited token."""
        return (*self.contexts, *self.others)[self.bare].up_to_the_edited_token()


def request_rows(
    model: LanguageModel, request: EditRequest, contexts: Sequence[str], config: ValueConfig
) -> RequestRows:
    """Encode a request in all contexts.

    Args:
        model: The model.
        request: The request.
        contexts: The empty context, then the others.
        config: Selects the contexts that the key and the loss average over.

    Raises:
        RequestError: No token covers the subject.
        ModelError: A row is longer than the model's context.
    """
    start, end = request.subject_span
    prompts = []
    for context in contexts:
        [sentence] = model.requested([request], context)
        span = (len(context) + start, len(context) + end)
        prompts.append(
            InputRow(
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
    return _arranged(prompts, subjects, InputRow(last.ids[: read + 1], position, read), config)


def _subject_rows(
    model: LanguageModel, request: EditRequest, contexts: Sequence[str], config: ValueConfig
) -> list[InputRow]:
    """Each context followed by the subject alone, if keys are read there; else empty."""
    if config.key_text == "prompt":
        return []
    rows = []
    texts = [context + request.subject for context in contexts]
    spans = [(len(context), len(text)) for context, text in zip(contexts, texts, strict=True)]
    encodings = model.read(texts, chat=request.chat, subjects=spans)
    for span, encoding in zip(spans, encodings, strict=True):
        model.check_length(encoding)
        position = encoding.position(span, config.position)
        rows.append(InputRow(encoding.ids, position, position).up_to_the_edited_token())
    return rows


def _arranged(
    prompts: Sequence[InputRow],
    subjects: Sequence[InputRow],
    essence: InputRow,
    config: ValueConfig,
) -> RequestRows:
    """The rows of the loss and of the key: one per context, bare prompt first."""
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
