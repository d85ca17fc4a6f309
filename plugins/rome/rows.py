"""The rows that one request is optimised on, as tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from editkit import EditRequest
from editkit.models import Encoding, LanguageModel
from editkit.requests import fill, subject_span
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


@dataclasses.dataclass(frozen=True)
class RequestRows:
    """All rows of a request.

    Attributes:
        contexts: Context, prompt, and target but for its last token; the bare prompt first.
        essence: The prompt about the subject's essence.
    """

    contexts: tuple[Row, ...]
    essence: Row

    @property
    def all(self) -> tuple[Row, ...]:
        """Context rows, then the essence row."""
        return (*self.contexts, self.essence)


def request_rows(
    model: LanguageModel, request: EditRequest, contexts: Sequence[str], config: RomeConfig
) -> RequestRows:
    """Encode a request in all contexts.

    Raises:
        RequestError: No token covers the subject.
        ModelError: A row is longer than the model's context.
    """
    sentences = [context + request.sentence for context in contexts]
    essence = fill(config.kl_prompt, request.subject)
    texts = [f"{sentence} {request.target_new}" for sentence in sentences]
    *encodings, last = model.encode([*texts, essence])
    start, end = request.subject_span
    rows = []
    for context, sentence, encoding in zip(contexts, sentences, encodings, strict=True):
        model.check_length(encoding)
        cut = next(i for i, (_, stop) in enumerate(encoding.offsets) if stop > len(sentence))
        prompt = Encoding(encoding.ids[:cut], encoding.offsets[:cut])
        span = (len(context) + start, len(context) + end)
        rows.append(
            Row(
                ids=encoding.ids[:-1],
                position=prompt.position(span, config.position),
                read=cut - 1,
                labels=encoding.ids[cut:],
            )
        )
    position = last.position(subject_span(config.kl_prompt, request.subject), config.position)
    read = position if config.kl_position == "subject_last" else len(last) - 1
    return RequestRows(tuple(rows), Row(last.ids[: read + 1], position, read))
