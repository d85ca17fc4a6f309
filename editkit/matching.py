"""Does a text give an answer? Rules that compare what a model wrote with the answers wanted.

::

    exact      normalised(text) == normalised(answer)
    contained  normalised(answer) occurs in normalised(text), as whole words
    wild       wild_normalised(text) == wild_normalised(answer)

``wild`` is the rule of "The mirage of model editing" (Yang et al. 2025, arXiv 2502.11177), which
comes from SQuAD (Rajpurkar et al. 2016): lower case, no ASCII punctuation, no ``a``, ``an`` and
``the``, single spaces. It takes 3.5 for 35, and an answer such as "The" for nothing. The other two
rules read a text like a person who knows that spelling varies:

===========================  ======================================================================
case, accents                ignored: "Zurich" is "Zürich". Only marks on Latin letters are accents
punctuation                  separates words: "Paris-based" contains "Paris"; "U.S." is "US", and
                             "J. R. R." is "JRR"; "AT&T" is "ATT"; "C++" and "C#" keep their signs
numbers                      "1,000" is "1000"; "3.5" is not "35", and "-5" is not "5"
articles                     ignored, unless nothing but words such as "who" is left: "The Who"
only articles or signs       "A" and "!!!" must occur exactly as they are written
scripts without spaces       whole words cannot be known, so "東京" occurs in "東京都"
===========================  ======================================================================
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

__all__ = ["MATCHES", "Match", "contained", "exact", "normalised", "wild", "wild_normalised"]

Match: TypeAlias = Literal["exact", "contained", "wild"]
"""Name of a rule."""

_ARTICLES = frozenset({"a", "an", "the"})
_COMMON = re.compile(
    "and|as|at|be|by|do|he|her|him|his|how|i|if|in|is|it|me|my|no|not|of|on|one|or|our|out|she|"
    "so|that|their|them|they|this|to|up|was|we|what|when|where|which|who|why|with|yes|you"
)
"""Words that nearly every text has; an answer made of these and an article keeps its article."""
_ACCENTS = re.compile(r"(?<=[a-z])[\u0300-\u036f]+")
_POSSESSIVE = re.compile(r"(?<=\w)['’]s\b")
_INITIALS = re.compile(r"(?<!\w)(?:(?:[a-z]\.\s?){2,}|(?:[a-z]\.)+[a-z](?!\w))")
_GLUED = re.compile(r"['’ʼ`]|(?<=\d),(?=\d{3}(?!\d))|(?<=\w)&(?=\w)")
"""Apostrophes, the comma of thousands, and the sign in "AT&T": they separate nothing."""
_KEPT = re.compile(
    r"(?<=\d)\.(?=\d)"  # 3.5
    r"|(?<![\w.])[-−](?=\d)"  # -5
    r"|(?<=[a-z])(?:\+\+|[#+](?![\w+]))"  # c++, c#, a+
)
_ASCII_PUNCTUATION = frozenset(string.punctuation)
_WITHOUT_SPACES = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    r"\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han
    r"\uac00-\ud7af]"  # Hangul has spaces, but particles follow a word without one
)


def normalised(text: str) -> str:
    """The words of a text as ``exact`` and ``contained`` compare them, with single spaces.

    Empty only if the text is blank.
    """
    words = _words(text)
    kept = [word for word in words if word not in _ARTICLES]
    if not all(map(_COMMON.fullmatch, kept)):
        return " ".join(kept)
    return " ".join(words) or " ".join(_as_written(text).split())


def exact(text: str, answers: Iterable[str]) -> bool:
    """Whether a text is one of the answers."""
    given = normalised(text)
    return any(given == wanted for wanted in map(normalised, answers) if wanted)


def contained(text: str, answers: Iterable[str]) -> bool:
    """Whether one of the answers occurs in a text."""
    words, answers = _words(text), list(answers)
    return exact(text, answers) or any(_contains(text, words, answer) for answer in answers)


def _contains(text: str, words: list[str], answer: str) -> bool:
    of_answer = normalised(answer).split()
    if _ARTICLES.issuperset(of_answer):  # nothing is left to look for but what is written
        written = _as_written(answer).strip()
        pattern = rf"(?<!\w){re.escape(written)}(?!\w)"
        return bool(written) and re.search(pattern, _as_written(text)) is not None
    if not any(each.isalnum() for word in of_answer for each in word):
        return " ".join(_as_written(answer).split()) in " ".join(_as_written(text).split())
    if _ARTICLES.isdisjoint(of_answer):
        words = [word for word in words if word not in _ARTICLES]
    return _occurs(" ".join(of_answer), " ".join(words))


def wild_normalised(text: str) -> str:
    """A text in lower case without ASCII punctuation and articles, with single spaces."""
    kept = "".join(each for each in text.lower() if each not in _ASCII_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def wild(text: str, answers: Iterable[str]) -> bool:
    """Whether a text is one of the answers, under WILD's normalisation and nothing else."""
    given = wild_normalised(text)
    return any(given == wild_normalised(answer) for answer in answers)


MATCHES: dict[Match, Callable[[str, Iterable[str]], bool]] = {
    "exact": exact,
    "contained": contained,
    "wild": wild,
}
"""The rules by name."""


def _words(text: str) -> list[str]:
    """The words of a text, articles among them."""
    folded = unicodedata.normalize("NFD", _as_written(text).casefold())
    folded = unicodedata.normalize("NFC", _ACCENTS.sub("", folded))
    folded = _POSSESSIVE.sub(" s", folded)  # not "pariss" for "Paris's"
    folded = _INITIALS.sub(lambda match: re.sub(r"[.\s]", "", match[0]) + " ", folded)
    folded = _GLUED.sub("", folded)
    kept = {place for match in _KEPT.finditer(folded) for place in range(*match.span())}
    spaced = "".join(
        ("-" if character == "−" else character)
        if place in kept or not _is_sign(character)
        else " "
        for place, character in enumerate(folded)
    )
    return spaced.split()


def _as_written(text: str) -> str:
    """A text in one Unicode form, without invisible characters."""
    composed = unicodedata.normalize("NFKC", text)
    return "".join(each for each in composed if unicodedata.category(each) != "Cf")


def _is_sign(character: str) -> bool:
    return character in _ASCII_PUNCTUATION or unicodedata.category(character).startswith("P")


def _occurs(wanted: str, given: str) -> bool:
    """Whether a text occurs in another, not as a part of a longer word."""
    start = given.find(wanted)
    while start >= 0:
        before, after = given[:start][-1:], given[start + len(wanted) :][:1]
        if _apart(before, wanted[0]) and _apart(wanted[-1], after):
            return True
        start = given.find(wanted, start + 1)
    return False


def _apart(left: str, right: str) -> bool:
    """Whether a word may end between two characters; either may be missing."""
    if not left or not right or left.isspace() or right.isspace():
        return True
    return bool(_WITHOUT_SPACES.match(left) or _WITHOUT_SPACES.match(right))
