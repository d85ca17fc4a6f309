"""Edit requests from what people type: a sentence with its subject, and the new object.

Mistakes that are easy to make get a sentence of their own: a subject in another spelling, a prompt
that already contains the answer, one text where a list is expected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from editkit.data_types import EditRequest
from editkit.errors import RequestError, did_you_mean
from editkit.mistakes import expect_list
from editkit.patches.answers import same_object
from editkit.prompts import checked_text, clean_prompt

__all__ = ["FIELDS", "given_prompts", "request_of", "request_of_mapping"]

FIELDS = ("prompt", "subject", "to", "old", "keep", "also", "separator", "chat")
"""What describes a fact to edit: the arguments of :func:`editkit.edit` besides model and editor."""


def request_of(
    prompt: str,
    *,
    subject: str,
    to: str,
    old: str | None = None,
    separator: str | None = None,
    chat: bool = False,
) -> EditRequest:
    """The request for a sentence with its subject written out.

    If the subject occurs several times, the first occurrence as a word of its own is the edited
    one: "Iran" in "Unlike the Iranian capital, that of Iran is".

    Args:
        prompt: A sentence up to the object.
        subject: The subject as it is written in the prompt.
        to: The new object.
        old: The object that the model gives now, if it is known.
        separator: Text between prompt and object; None: the default rule.
        chat: Whether the prompt is a user's turn in a chat.

    Raises:
        RequestError: The subject is not in the prompt, the prompt contains the object, both objects
            are the same, or a text cannot be used.
    """
    prompt, subject = checked_text(prompt, "prompt"), checked_text(subject, "subject")
    to = checked_text(to, "to")
    if old is not None:
        old = checked_text(old, "old")
    subject = subject.strip()
    if subject not in prompt:
        raise RequestError(
            f"the subject {subject!r} is not in the prompt {prompt!r}.",
            hint=_hint_for_subject(prompt, subject),
        )
    if "{}" in prompt:
        raise RequestError(
            f"the prompt {prompt!r} contains '{{}}', which editkit uses for the subject.",
            hint="Write the prompt as a plain sentence.",
        )
    for name, text in (("new", to), ("old", old)):
        if not chat and text is not None and _ends_with(prompt, text):
            raise RequestError(
                f"the prompt {prompt!r} ends with the {name} object {text!r}.",
                hint="End the prompt right before the object.",
            )
    if old is not None and same_object(old, to):
        raise RequestError(
            f"the new object {to!r} is the old one: there is nothing to change.",
            hint="Give another new object, or leave the old one out.",
        )
    start = _place_of(subject, prompt)
    template = f"{prompt[:start]}{{}}{prompt[start + len(subject) :]}"
    return EditRequest(template, subject, to, target_true=old, separator=separator, chat=chat)


def request_of_mapping(fact: object, number: int | None = None) -> EditRequest:
    """The request for a fact given as a mapping with some of :data:`FIELDS`, or as a request.

    ``old`` may also be called ``from``, as in the files of ``editkit edit --batch``.

    Args:
        fact: The mapping or request.
        number: Its number in a list, for messages.

    Raises:
        RequestError: A key is missing or unknown, or a value cannot be used.
    """
    place = "the fact" if number is None else f"fact {number}"
    if isinstance(fact, EditRequest):
        return fact
    if not isinstance(fact, Mapping):
        raise RequestError(
            f"{place} is {fact!r:.80}, expected a mapping or an EditRequest.",
            hint='Write {"prompt": ..., "subject": ..., "to": ...}.',
        )
    if "from" in fact and "old" not in fact:  # as in files of facts
        fact = {"old" if key == "from" else key: value for key, value in fact.items()}
    for key in fact:
        if key not in FIELDS:
            raise RequestError(
                f"{place} has the unknown key {key!r:.60}.",
                hint=did_you_mean(str(key), FIELDS) or f"Known: {', '.join(FIELDS)}.",
            )
    for key in ("prompt", "subject", "to"):
        if key not in fact:
            raise RequestError(
                f"{place} has no {key!r}.", hint="A fact needs a prompt, a subject and 'to'."
            )
    for key in ("keep", "also"):
        expect_list(fact.get(key, ()), "text", f"{key} of {place}", "edit_many(model, facts)")
    values: dict[str, Any] = {key: fact[key] for key in fact if key not in ("keep", "also")}
    try:
        return request_of(values.pop("prompt"), **values)
    except RequestError as error:
        raise RequestError(f"{place}: {error.message}", hint=error.hint) from None


def given_prompts(prompts: Sequence[str], name: str, request: EditRequest) -> tuple[str, ...]:
    """The prompts of ``keep`` or ``also``, each once.

    Args:
        prompts: The prompts.
        name: ``keep`` or ``also``.
        request: The edit.

    Raises:
        RequestError: A prompt is blank, or is the edited one.
    """
    cleaned = [clean_prompt(each, f"a prompt of {name}", None) for each in prompts]
    prompts = tuple(dict.fromkeys(cleaned))
    if request.sentence in prompts:
        raise RequestError(
            f"{name} has the edited prompt {request.sentence!r} itself.",
            hint="Its answer is meant to change: give prompts about other facts."
            if name == "keep"
            else "Give the fact in other words.",
        )
    return prompts


def _ends_with(prompt: str, answer: str) -> bool:
    """Whether the last words of a prompt are the answer."""
    text, end = (each.casefold().strip().rstrip(".!?") for each in (prompt, answer))
    before = text.removesuffix(end)
    return before != text and not before[-1:].isalnum()


def _place_of(subject: str, prompt: str) -> int:
    """Where the subject is first a word of its own, or else where it first occurs."""
    start = first = prompt.index(subject)
    while start >= 0:
        end = start + len(subject)
        if not (prompt[start - 1 : start].isalnum() or prompt[end : end + 1].isalnum()):
            return start
        start = prompt.find(subject, start + 1)
    return first


def _hint_for_subject(prompt: str, subject: str) -> str:
    """What the user may have meant: the words of the prompt that are most like the subject."""
    if "{}" in prompt:
        return f"Write the subject out: {prompt.replace('{}', subject, 1)!r}."
    tokens = [word.strip(".,;:!?\"'()") for word in prompt.split()]
    n = len(subject.split())
    spans = [
        " ".join(tokens[start : start + length])
        for length in (n, n - 1, n + 1)
        if length > 0
        for start in range(len(tokens) - length + 1)
    ]
    by_case = {span.casefold(): span for span in reversed(spans)}
    same = by_case.get(subject.casefold())
    guess = f"Did you mean {same!r}?" if same else did_you_mean(subject, spans)
    rule = "Write the subject exactly as it is spelled in the prompt."
    return f"{guess} {rule}" if guess else rule
