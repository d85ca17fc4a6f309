"""An edit request, and where the tokens of its subject stand in an encoded sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from editkit.errors import RequestError
from editkit.texts import checked_text, joined, trimmed, trimmed_prompt

__all__ = [
    "EditRequest",
    "Offsets",
    "SubjectPosition",
    "check_chat",
    "check_separator",
    "check_subject",
    "clean_prompt",
    "clean_target",
    "fill",
    "subject_span",
    "token_position",
    "token_span",
    "without_defaults",
]

SubjectPosition = Literal["subject_first", "subject_last", "subject_first_after_last", "last"]
"""Names of the token positions that editors and locators may ask for."""

Offsets = Sequence[tuple[int, int]]
"""Half-open character spans of the tokens of one sentence, in order."""


@dataclasses.dataclass(frozen=True)
class EditRequest:
    """One fact to write: the prompt, filled with the subject, shall continue with the new target.

    Spaces at the prompt's end and white space around targets are dropped: the separator stands for
    them. Line breaks at the prompt's end are kept.

    Attributes:
        prompt: A sentence up to the object, with exactly one ``{}`` where the subject stands.
        subject: The entity that the fact is about.
        target_new: The object to write.
        target_true: The object that the model is expected to hold before, if known.
        relation_id: The relation's identifier, if known (``P17``).
        separator: What stands between prompt and target; None: what the script and the end of the
            prompt ask for (:func:`editkit.texts.default_separator`).
        chat: Whether the filled prompt is a user's turn in a chat, written with the model's own
            template, and the target the beginning of the model's answer.

    Raises:
        RequestError: A text is blank or is not valid Unicode, the subject begins or ends with white
            space, the prompt has not exactly one place for it, or white space at the prompt's end
            or around a target contradicts a separator that is given.
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    relation_id: str | None = None
    separator: str | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        check_separator(self.separator)
        check_chat(self.chat)
        check_subject(self.subject)
        put = object.__setattr__
        put(self, "prompt", clean_prompt(self.prompt, "prompt", self.separator))
        put(self, "target_new", clean_target(self.target_new, "target_new", self.separator))
        if self.target_true is not None:
            put(self, "target_true", clean_target(self.target_true, "target_true", self.separator))
        if self.relation_id is not None:
            checked_text(self.relation_id, "relation_id")
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

    @property
    def statement(self) -> str:
        """The sentence with the new target, as a plain text: what an edit makes the model say."""
        return joined(self.sentence, self.target_new, self.separator)

    def to_dict(self) -> dict[str, Any]:
        """The request as plain data, to be saved with a delta or a row.

        ``separator`` and ``chat`` are there where they are set, so that digests of requests that do
        not use them are those of earlier versions.
        """
        return without_defaults(vars(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EditRequest:
        """The request that :meth:`to_dict` described, today or in an earlier version.

        Earlier versions took subjects with white space around them; it moves into the prompt.
        """
        values = dict(data)
        subject, prompt = values.get("subject"), values.get("prompt")
        if isinstance(subject, str) and isinstance(prompt, str) and subject.strip():
            core = subject.strip()
            before, _, after = subject.partition(core)
            values |= {"subject": core, "prompt": prompt.replace("{}", f"{before}{{}}{after}", 1)}
        return cls(**values)


def without_defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data of a request, a probe or a fact without a separator or chat that is not set."""
    unset = {"separator": None, "chat": False}
    return {key: value for key, value in data.items() if key not in unset or value != unset[key]}


def check_separator(separator: object) -> None:
    """Refuse what cannot stand between a prompt and its answer.

    Raises:
        RequestError: It is no text, or is not valid Unicode.
    """
    if separator is None or separator == "":
        return
    if not isinstance(separator, str):
        raise RequestError(
            f"separator is {separator!r:.60}, expected a text, or None for the default rule.",
            hint="Give '' for nothing between prompt and answer, ' ' for a space.",
        )
    checked_text(f"-{separator}", "separator")


def check_chat(chat: object) -> None:
    """Refuse a value of ``chat`` that is neither True nor False.

    Raises:
        RequestError: It is something else.
    """
    if not isinstance(chat, bool):
        raise RequestError(
            f"chat is {chat!r:.60}, expected True or False.",
            hint="True makes the prompt a user's turn in a chat.",
        )


def check_subject(subject: object) -> None:
    """Refuse a subject that is blank or has white space around it, which would belong to a prompt.

    Raises:
        RequestError: It is.
    """
    text = checked_text(subject, "subject")
    if text != text.strip():
        raise RequestError(
            f"subject is {text!r:.60}, which begins or ends with white space.",
            hint="Write the white space into the prompt, around '{}'.",
        )


def clean_prompt(value: object, field: str, separator: str | None) -> str:
    """A prompt without spaces at its end.

    Raises:
        RequestError: It is blank or not valid Unicode, or ends with spaces although a separator was
            given.
    """
    prompt = checked_text(value, field)
    cleaned = trimmed_prompt(prompt)
    if separator is not None and cleaned != prompt:
        raise RequestError(
            f"{field} is {prompt!r:.60} with the separator {separator!r}: it is not clear what is "
            "to stand between prompt and answer.",
            hint="End the prompt without a space, and write all of it into the separator.",
        )
    return cleaned


def clean_target(value: object, field: str, separator: str | None) -> str:
    """A target without white space around it.

    Raises:
        RequestError: It is blank or not valid Unicode, or begins with white space although a
            separator was given.
    """
    return trimmed(checked_text(value, field), field, separator)


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
            hint="Check that the subject was not cut off by the model's context length, and that "
            "the tokenizer does not drop its characters.",
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
