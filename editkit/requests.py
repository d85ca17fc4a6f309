"""An edit request, and where the tokens of its subject stand in an encoded sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from editkit.errors import RequestError

__all__ = [
    "EditRequest",
    "Offsets",
    "SubjectPosition",
    "fill",
    "subject_span",
    "token_position",
    "token_span",
]

SubjectPosition = Literal["subject_first", "subject_last", "subject_first_after_last", "last"]
"""Names of the token positions that editors and locators may ask for."""

Offsets = Sequence[tuple[int, int]]
"""Half-open character spans of the tokens of one sentence, in order."""


@dataclasses.dataclass(frozen=True)
class EditRequest:
    """One fact to write: the prompt, filled with the subject, shall continue with the new target.

    Attributes:
        prompt: A sentence up to the object, with exactly one ``{}`` where the subject stands.
        subject: The entity that the fact is about.
        target_new: The object to write, without a leading space.
        target_true: The object that the model is expected to hold before, if known.
        relation_id: The relation's identifier, if known (``P17``).
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    relation_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "subject", "target_new"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise RequestError(
                    f"{name} is {value!r}, expected a non-empty text.",
                    hint=f"Give the request a {name}.",
                )
        if self.prompt.count("{}") != 1:
            raise RequestError(
                f"prompt {self.prompt!r} holds {self.prompt.count('{}')} places for the subject, "
                "expected exactly one '{}'.",
                hint="Write '{}' where the subject belongs, once.",
            )

    @property
    def sentence(self) -> str:
        """The prompt with the subject filled in."""
        return fill(self.prompt, self.subject)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Half-open character span of the subject in :attr:`sentence`."""
        return subject_span(self.prompt, self.subject)

    def to_dict(self) -> dict[str, Any]:
        """The request as plain data, to be saved with a delta."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EditRequest:
        """The request that :meth:`to_dict` described."""
        return cls(**data)


def fill(template: str, subject: str) -> str:
    """Put ``subject`` in place of the only ``{}``; other braces are left as they are."""
    return template.replace("{}", subject, 1)


def subject_span(template: str, subject: str) -> tuple[int, int]:
    """Half-open character span that ``subject`` takes in ``fill(template, subject)``."""
    start = template.index("{}")
    return start, start + len(subject)


def token_span(offsets: Offsets, span: tuple[int, int]) -> tuple[int, int]:
    """Half-open token span of the characters ``span``.

    A token belongs to the span when it covers at least one of its non-space characters, so a
    token that carries the space before a word counts by its word.

    Args:
        offsets: Character spans of the tokens of the whole sentence, padding excluded.
        span: Half-open character span.

    Raises:
        RequestError: No token covers any of these characters.
    """
    start, end = span
    inside = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
    if not inside:
        raise RequestError(
            f"no token covers characters {start} to {end}.",
            hint="Check that the subject was not cut off by the model's context length.",
        )
    return inside[0], inside[-1] + 1


def token_position(offsets: Offsets, span: tuple[int, int], position: SubjectPosition) -> int:
    """Index of the token that ``position`` names, counted from the sentence's first real token.

    ``subject_first_after_last`` is the subject's last token where nothing follows it.

    Args:
        offsets: Character spans of the tokens of the whole sentence, padding excluded.
        span: Half-open character span of the subject.
        position: Which token is asked for.

    Raises:
        RequestError: No token covers the subject.
    """
    if position == "last":
        return len(offsets) - 1
    first, end = token_span(offsets, span)
    if position == "subject_first":
        return first
    if position == "subject_last":
        return end - 1
    return min(end, len(offsets) - 1)
