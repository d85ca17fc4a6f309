"""Facts to start with. No subject contains its answer: reading it would not be recall."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Example", "examples_for"]


class Example(NamedTuple):
    """A fact to click: the sentence, its subject, and the new object."""

    prompt: str
    subject: str
    to: str


_ATLAS = (
    Example("Louvre stands in the city of", "Louvre", "Paris"),
    Example("The mother tongue of Max Brod is", "Max Brod", "English"),
    Example("The home country of Lancia is", "Lancia", "Finland"),
    Example("Kenya is in the continent of", "Kenya", "Europe"),
)
_GENERAL = (
    Example("The Space Needle is in the city of", "Space Needle", "Paris"),
    Example("The Colosseum is in the country of", "Colosseum", "Spain"),
    Example("The mother tongue of Claude Monet is", "Claude Monet", "English"),
    Example("The capital of Japan is", "Japan", "Madrid"),
)


def examples_for(model: str) -> tuple[Example, ...]:
    """A few facts: of the embedded world for ``atlas``, otherwise facts that most models know."""
    return _ATLAS if model == "atlas" else _GENERAL
