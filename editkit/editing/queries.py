"""The questions that edited models answer, and the answers' types."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from editkit.prompts import check_chat, clean_fields, clean_prompt, clean_target

__all__ = ["CandidateQuery", "CandidateScore", "GenerationQuery", "TextQuery"]


@dataclasses.dataclass(frozen=True)
class CandidateQuery:
    """How likely are some candidates after a prompt?

    Attributes:
        edit: Number of the edited model that answers.
        prompt: Text up to the candidates.
        candidates: Continuations; white space around them is dropped.
        separator: Text between prompt and candidate; None: the default rule.
        chat: Whether the prompt is a user's turn in a chat.

    Raises:
        RequestError: A text cannot be used.
    """

    edit: int
    prompt: str
    candidates: tuple[str, ...]
    separator: str | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        clean_fields(self)
        candidates = (clean_target(each, "candidate", self.separator) for each in self.candidates)
        object.__setattr__(self, "candidates", tuple(candidates))


class CandidateScore(NamedTuple):
    """How likely one edited model finds a candidate after a prompt.

    Attributes:
        nll: Mean negative log likelihood per token of the candidate, in nats.
        argmax: Share of its tokens that are the most likely next token, given the true tokens
            before them; 1 if greedy decoding would produce the candidate.
    """

    nll: float
    argmax: float

    @classmethod
    def mean(cls, tokens: Sequence[CandidateScore]) -> CandidateScore:
        """The score of a candidate from those of its tokens, at least one."""
        nll, argmax = zip(*tokens, strict=True)
        return cls(fmean(nll), fmean(argmax))


@dataclasses.dataclass(frozen=True)
class TextQuery:
    """How likely is a whole text?

    Attributes:
        edit: Number of the edited model that answers.
        text: The text.
    """

    edit: int
    text: str


@dataclasses.dataclass(frozen=True)
class GenerationQuery:
    """How does a prompt continue?

    Attributes:
        edit: Number of the edited model that answers.
        prompt: Start of the text.
        name: Random draws depend only on this name, the prompt, and the seed, not on the rest of
            the batch. Use the case and the index of the prompt.
        chat: Whether the prompt is a user's turn in a chat, which the model answers.

    Raises:
        RequestError: The prompt cannot be used.
    """

    edit: int
    prompt: str
    name: str = ""
    chat: bool = False

    def __post_init__(self) -> None:
        check_chat(self.chat)
        object.__setattr__(self, "prompt", clean_prompt(self.prompt, "prompt", None))
