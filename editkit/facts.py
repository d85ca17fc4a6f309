"""A fact to be located, and what a locator says about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from editkit.errors import RequestError

__all__ = ["Fact", "Localization"]


@dataclasses.dataclass(frozen=True)
class Fact:
    """What a locator traces: a prompt, its subject, and the answer (None: the model's own).

    Raises:
        RequestError: The subject is empty, or is not in the prompt.
    """

    prompt: str
    subject: str
    answer: str | None = None

    def __post_init__(self) -> None:
        if not self.subject.strip() or self.subject not in self.prompt:
            raise RequestError(
                f"the subject {self.subject!r} is not in the prompt {self.prompt!r}.",
                hint="Write the subject as it stands in the prompt, letter by letter.",
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
