"""The object in a model's answer: ``Seattle`` in ``the city of Seattle, Washington. It is``.

A model answers in words of its own. The rules here find the name, number or noun that a person
would read as the answer. They are written for English; a text in another script is cut at its
punctuation.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from editkit.prompts import words

__all__ = ["Spoken", "is_name_or_number", "same_object", "spoken_object"]

_TOKEN = re.compile(r"\S+")
_QUOTES = "\"'“”‘’«»„‚`*_([{<)]}>「」『』《》〈〉"
_STOPS = ".,;:!?…。，、；：！？،؛؟।॥"
_ENDS = re.compile(rf"[{re.escape(_STOPS)}]+[{re.escape(_QUOTES)}]*$|[{re.escape(_QUOTES)}]$")


def _all(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ABBREVIATIONS = _all("st dr mr mrs ms jr sr mt ft no prof gen col capt rev hon")
_JOINING = _all("of the de da di do du del della der den la le les las los el al van von ter y e")
_VERBS = _all("is are was were called named")
_REPEATED = _all("answer name correct")  # words of answers, as if from the prompt
_LEADING = _all(
    "the a an its it this that these those there his her their he she they in on at of by to from "
    "near within inside for as with is are was were be been being called named known located "
    "situated found based born made written spoken mainly mostly primarily also officially now "
    "actually currently usually generally"
)
_KINDS = _all(
    "city town village capital country nation state province region continent language currency "
    "company firm brand name island county district republic kingdom year"
)
_BREAKS = _LEADING | _all(
    "and or but which who whom whose when where while because since if than then has have had can "
    "could will would may might should do does did not into over under about after before between "
    "during through became becomes lies so you we i"
)
_PEOPLES = ("an", "ish", "ese", "ch", "ic", "i")
_ELIDED = re.compile(r"^[dlDL]['’](?=\w)")
_WITH_NUMBER = 1  # words after a number that belong to it: 3.5 million


class Spoken(NamedTuple):
    """The object in an answer.

    Attributes:
        object: The object.
        text: The answer up to the end of the object: ``the city of Seattle``.
    """

    object: str
    text: str

    def with_object(self, other: str) -> str:
        """The same answer with another object: ``the city of Paris``."""
        return self.text[: len(self.text) - len(self.object)] + other


class _Word(NamedTuple):
    start: int
    end: int  # without punctuation
    text: str
    opens: bool  # whether a bracket precedes it
    stops: bool  # whether a clause ends after it

    @property
    def plain(self) -> str:
        return self.text.casefold()


def spoken_object(answer: str, prompt: str = "") -> Spoken | None:
    """The object that an answer gives.

    Args:
        answer: A model's continuation of the prompt.
        prompt: The prompt; an answer that repeats it first (``The capital of Kenya is Nairobi``)
            gives what follows.

    Returns:
        None if the answer has only punctuation, or only words such as ``the``.
    """
    line = next((each for each in answer.splitlines() if any(map(str.isalnum, each))), "")
    tokens = [word for word in map(_word, _TOKEN.finditer(line)) if word is not None]
    if not tokens:
        return None
    if not any(_is_cased(word.text) or _is_number(word.text) for word in tokens):
        first, last = _uncased(tokens)
    else:
        tokens = tokens[_after_repetition(tokens, words(prompt)) :]
        first, last = _cased(_first_clause(tokens), words(prompt))
        if last.plain in _LEADING and first is last:
            return None
    if not _is_spaced(first.text) and first is last:
        last = _cut(first)
    begin = len(line) - len(line.lstrip())
    return Spoken(line[first.start : last.end], line[begin : last.end].lstrip(_QUOTES))


def same_object(one: str, other: str) -> bool:
    """Whether two objects are the same, up to case, accents' encoding and punctuation."""
    return _normal(one) == _normal(other)


def is_name_or_number(text: str) -> bool:
    """Whether an object is written like a name or a number; in scripts without case, always."""
    first = text[:1]
    return first.isdigit() or (first.isalpha() and not first.islower())


def _normal(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold().strip(_QUOTES + _STOPS + " ")
    return " ".join(folded.removeprefix("the ").split())


# ---------------------------------------------------------------- words


def _word(match: re.Match[str]) -> _Word | None:
    """A word without the punctuation around it; None if there is nothing else."""
    text = match[0]
    start = match.start() + len(text) - len(text.lstrip(_QUOTES + "-–—"))
    text = text.lstrip(_QUOTES + "-–—")
    core = text
    while (end := _ENDS.search(core)) is not None:
        core = core[: end.start()]
    if not any(map(str.isalnum, core)):
        return None
    after = text[len(core) :]
    stops = any(each in _STOPS for each in after) or any(each in ')]}”»"' for each in after)
    if after.startswith(".") and _is_abbreviated(core):
        core, stops = f"{core}.", after.strip(".") != ""
    opens = any(each in "([{" for each in match[0][: start - match.start()])
    return _Word(start, start + len(core), core, opens, stops)


def _is_abbreviated(word: str) -> bool:
    """Whether a full stop after a word belongs to it: ``St.``, ``J.``, ``U.S.``."""
    letters = word.replace(".", "")
    initials = "." in word and all(len(part) == 1 for part in word.split("."))
    return (
        (len(letters) == 1 and letters.isupper())
        or initials
        or (word.casefold() in _ABBREVIATIONS and word[:1].isupper())
    )


def _is_cased(text: str) -> bool:
    return any(each.isupper() or each.islower() for each in text)


def _is_number(text: str) -> bool:
    return text[:1].isdigit()


def _is_spaced(text: str) -> bool:
    """Whether the script of a text writes spaces between words."""
    return len(words(text)) <= 1 or _is_cased(text) or _is_number(text)


# ---------------------------------------------------------------- phrases


def _after_repetition(tokens: list[_Word], prompt: set[str]) -> int:
    """Number of words with which an answer repeats the prompt; 0 if it does not."""
    repeated, n = False, 0
    for place, word in enumerate(tokens[:-1], start=1):
        if word.plain in _LEADING:
            n = place if repeated and word.plain in _VERBS else n
        elif words(word.text) <= prompt | _REPEATED:
            repeated = True
        else:
            break
    return n


def _first_clause(tokens: list[_Word]) -> list[_Word]:
    """The words up to the first clause's end."""
    for place, word in enumerate(tokens):
        if place and word.opens:
            return tokens[:place]
        if word.stops:
            return tokens[: place + 1]
    return tokens


def _cased(clause: list[_Word], prompt: set[str]) -> tuple[_Word, _Word]:
    """First and last word of the object in a clause of a script with case, or with numbers."""
    start = _after_lead_in(clause)
    if clause[start].plain in _KINDS and clause[start].plain in prompt:  # a continent in ...
        names = (n for n in range(start + 1, len(clause)) if _is_capital(clause[n]))
        start = next(names, start)
    if _is_number(clause[start].text):
        rest = clause[start + 1 : start + 1 + _WITH_NUMBER]
        joined = [word for word in rest if word.plain not in _BREAKS]
        return clause[start], joined[-1] if joined else clause[start]
    end = start
    if _is_capital(clause[start]):
        while (following := _continued(clause, end)) is not None:
            end = following
        is_people = start == end and clause[start].plain.endswith(_PEOPLES)
        if not is_people:
            return clause[start], clause[end]
    for place in range(end + 1, len(clause)):  # a noun: "shilling", "Kenyan shilling"
        if clause[place].plain in _BREAKS:
            break
        end = place
    return clause[start], clause[end]


def _after_lead_in(clause: list[_Word]) -> int:
    """Where the object begins: after ``the city of``, for example."""
    place = 0
    while place < len(clause) - 1:
        plain = clause[place].plain
        following = clause[place + 1].plain
        leads = plain in _LEADING or (
            plain in _KINDS
            and not clause[place].text[0].isupper()
            and (following in ("of", "called", "named", "is") or _is_capital(clause[place + 1]))
        )
        if not leads or (place and _is_capital(clause[place]) and plain not in ("the", "a", "an")):
            break
        place += 1
    is_title = place == 1 and clause[0].text in ("The", "A", "An") and _is_capital(clause[1])
    return 0 if is_title else place


def _is_capital(word: _Word) -> bool:
    name = _ELIDED.sub("", word.text)
    return name[0].isupper() or name[0].isdigit()


def _continued(clause: list[_Word], end: int) -> int | None:
    """The next word of a name: a capital one, perhaps after ``of`` or ``van der``."""
    place = end + 1
    while place < len(clause) and place <= end + 3 and clause[place].plain in _JOINING:
        place += 1
    if place < len(clause) and _is_capital(clause[place]):
        return place
    return None


# ---------------------------------------------------------------- scripts without case

_MOST_WORDS = 3
_BREAK = re.compile(rf"[{re.escape(_STOPS + _QUOTES)}]")


def _uncased(tokens: list[_Word]) -> tuple[_Word, _Word]:
    """First and last word: the clause if it is short, or else its first word."""
    clause = _first_clause(tokens)
    return clause[0], clause[-1] if len(clause) <= _MOST_WORDS else clause[0]


def _cut(word: _Word) -> _Word:
    """A run of a script without spaces up to its first punctuation."""
    match = _BREAK.search(word.text)
    if match is None:
        return word
    return word._replace(end=word.start + match.start(), text=word.text[: match.start()])
