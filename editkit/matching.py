"""Does a text give an answer? Rules that compare what a model wrote with the answers wanted.

Texts and answers are normalised first, as in the evaluation of SQuAD (Rajpurkar et al. 2016) and of
"The mirage of model editing" (Yang et al. 2025, arXiv 2502.11177): lower case, without punctuation
and without ``a``, ``an`` and ``the``, and with single spaces::

    exact      normalised(text) == normalised(answer)
    contained  the words of normalised(answer) occur in normalised(text), one after the other
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

__all__ = ["MATCHES", "Match", "contained", "exact", "normalised"]

Match: TypeAlias = Literal["exact", "contained"]
"""Name of a rule."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION = frozenset(string.punctuation)


def normalised(text: str) -> str:
    """A text in lower case without punctuation and articles, with single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(character for character in folded if not _is_punctuation(character))
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact(text: str, answers: Iterable[str]) -> bool:
    """Whether a text is one of the answers."""
    given = normalised(text)
    return any(given == wanted for wanted in map(normalised, answers) if wanted)


def contained(text: str, answers: Iterable[str]) -> bool:
    """Whether one of the answers occurs in a text, as whole words."""
    given = f" {normalised(text)} "
    return any(f" {wanted} " in given for wanted in map(normalised, answers) if wanted)


MATCHES: dict[Match, Callable[[str, Iterable[str]], bool]] = {
    "exact": exact,
    "contained": contained,
}
"""The rules by name."""


def _is_punctuation(character: str) -> bool:
    return character in _ASCII_PUNCTUATION or unicodedata.category(character).startswith("P")
