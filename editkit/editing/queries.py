"""What edited models can be asked, and what they answer about candidates."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from editkit.prompts import check_chat, check_separator, clean_prompt, clean_target

__all__ = ["CandidateQuery", "CandidateScore", "GenerationQuery", "TextQuery"]


@dataclasses.dataclass(frozen=True)
class CandidateQuery:
    """Asks one edited model how likely some candidates are after a prompt.

    Attributes:
        edit: Number of the edited model.
        prompt: Text up to the candidates.
        candidates: Continuations; white space around them is dropped.
        separator: What stands between prompt and candidate; None: the default rule.
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
        check_separator(self.separator)
        check_chat(self.chat)
        put = object.__setattr__
        put(self, "prompt", clean_prompt(self.prompt, "prompt", self.separator))
        candidates = (clean_target(each, "candidate", self.separator) for each in self.candidates)
        put(self, "candidates", tuple(candidates))


class CandidateScore(NamedTuple):
    """How one edited model sees a candidate after a prompt.

    Attributes:
        nll: Mean negative log likelihood per token of the candidate, in nats.
        argmax: Share of its tokens that are the most likely one, each after the true ones before
            it; 1 where greedy decoding would write the candidate.
    """

    nll: float
    argmax: float


@dataclasses.dataclass(frozen=True)
class TextQuery:
    """Asks one edited model how likely a whole text is.

    Attributes:
        edit: Number of the edited model.
        text: The text.
    """

    edit: int
    text: str


@dataclasses.dataclass(frozen=True)
class GenerationQuery:
    """Asks one edited model to go on with a prompt.

    Attributes:
        edit: Number of the edited model.
        prompt: The text's beginning.
        name: What is drawn depends on this name, the prompt and the seed alone, whatever else is
            generated beside it. Give the case and the prompt's place.
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
