"""What edited models can be asked, and what they answer about candidates."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

__all__ = ["CandidateQuery", "CandidateScore", "GenerationQuery", "TextQuery"]


@dataclasses.dataclass(frozen=True)
class CandidateQuery:
    """Asks one edited model how likely some candidates are after a prompt.

    Attributes:
        edit: Number of the edited model.
        prompt: Text up to the candidates.
        candidates: Continuations, without leading space.
    """

    edit: int
    prompt: str
    candidates: tuple[str, ...]


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
    """

    edit: int
    prompt: str
    name: str = ""
