"""A fact to be located, and what a locator says about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from editkit.errors import RequestError
from editkit.requests import (
    EditRequest,
    check_chat,
    check_separator,
    check_subject,
    clean_prompt,
    clean_target,
    without_defaults,
)

__all__ = ["Fact", "Localization", "fact_of"]


@dataclasses.dataclass(frozen=True)
class Fact:
    """What a locator traces: a prompt, its subject, and the answer (None: the model's own).

    Spaces at the prompt's end and around the answer are dropped, as in
    :class:`~editkit.EditRequest`.

    Attributes:
        prompt: A text up to the answer.
        subject: What the fact is about, as it stands in the prompt.
        answer: What the prompt continues with.
        separator: What stands between them; None: the default rule.
        chat: Whether the prompt is a user's turn in a chat.

    Raises:
        RequestError: The subject is blank or is not in the prompt, or a text cannot be used.
    """

    prompt: str
    subject: str
    answer: str | None = None
    separator: str | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        check_separator(self.separator)
        check_chat(self.chat)
        check_subject(self.subject)
        put = object.__setattr__
        put(self, "prompt", clean_prompt(self.prompt, "prompt", self.separator))
        if self.answer is not None:
            put(self, "answer", clean_target(self.answer, "answer", self.separator))
        if self.subject not in self.prompt:
            raise RequestError(
                f"the subject {self.subject!r} is not in the prompt {self.prompt!r}.",
                hint="Write the subject as it stands in the prompt, letter by letter.",
            )

    def to_dict(self) -> dict[str, Any]:
        """The fact as plain data; ``separator`` and ``chat`` where they are set."""
        return without_defaults(vars(self))


def fact_of(request: EditRequest, answer: str | None = None) -> Fact:
    """The fact that a request is about, before it is edited.

    Args:
        request: The request.
        answer: The answer to follow; None: the request's true target.
    """
    return Fact(
        request.sentence,
        request.subject,
        request.target_true if answer is None else answer,
        separator=request.separator,
        chat=request.chat,
    )


@dataclasses.dataclass(frozen=True)
class Localization:
    """Effect of each site on one fact.

    Attributes:
        fact: The fact.
        tokens: The prompt's tokens as text.
        kind: What a site is: ``state``, ``mlp``, ``attn``, ``neuron``.
        scores: Nested lists (tokens, layers) of effects; 0 where nothing was traced.
        baselines: Named reference values, such as ``clean`` and ``corrupted`` probability.
        neurons: For kind ``neuron``: single neurons as (layer, neuron, effect), largest first.
        subject: Half-open span of the subject's tokens, where the locator tells it.
        answer: The answer whose probability was followed, as the model writes it.
    """

    fact: Fact
    tokens: tuple[str, ...]
    kind: str
    scores: tuple[tuple[float, ...], ...]
    baselines: Mapping[str, float] = dataclasses.field(default_factory=dict)
    neurons: tuple[tuple[int, int, float], ...] = ()
    subject: tuple[int, int] | None = None
    answer: str = ""
