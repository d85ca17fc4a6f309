"""Where a model's own text ends: named rules, which are part of a metric's protocol.

A greedy continuation runs on after the answer (``Paris. It was built in``), and how much of it
counts decides whether an answer is right::

    end        up to the token that ends the text
    line       up to the first line break after something else than white space
    sentence   up to the first sentence end after a letter or digit, or the first line break there
    tokens     all new tokens: as ``end``, but the number of tokens is what the name is about
    wild       up to the first token with "." or a line feed in it, whatever it is a part of

Every rule also stops at the end-of-text token and after ``tokens`` tokens.

A sentence ends at ``.``, ``!``, ``?`` or ``…``, if white space (after closing quotes and brackets)
or the end of the whole text follows. It does not end where the next word begins in lower case
(``Yahoo! was``), after titles and abbreviations that precede names or numbers (``St. Louis``,
``No. 5``), and after initials (``U.S.``, ``J. R. R. Tolkien``) and abbreviations that may be last
words (``Inc.``), unless a word such as ``The`` or ``It`` comes next. Decimals (``3.5``) and names
(``example.com``) have no white space. The full stops and marks of scripts that do not write a space
after them (``。``, ``؟``, ``।``) always end a sentence.

``wild`` is the rule of "The mirage of model editing" (Yang et al. 2025, arXiv 2502.11177), with 50
tokens: generation stops at the strings "." and "\\n", and the stop is removed from the end. ``St.
Louis`` is thus ``St``, and ``3.5`` may be ``3`` or ``3.5``, depending on the tokenizer.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal, TypeAlias

from editkit.errors import ConfigError

__all__ = ["WILD", "Stop", "StopName"]

StopName: TypeAlias = Literal["end", "line", "sentence", "tokens", "wild"]
"""Name of a rule."""

_BREAKS = "\n\r\v\f\x85\u2028\u2029"
_BREAK = re.compile(f"[{_BREAKS}]")
_SENTENCE_END = re.compile(
    rf"(?P<certain>[{_BREAKS}。！？｡।॥؟۔։።။។])"
    r"|(?P<mark>[.!?…]+)[\"'”’»)\]」』]*"
)
_OPENING = "\"'“‘«(["
_WORD = re.compile(r"[^\W\d_]+")
_LAST_WORD = re.compile(r"[^\W\d_]+(?:\.[^\W\d_]+)*$")
_INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*")
_BEFORE_NAMES = re.compile(
    "adm|apr|aug|brig|ca|capt|cf|cmdr|col|dec|dr|eg|feb|fr|ft|gen|gov|hon|ie|jan|jul|jun|lt|"
    "maj|messrs|mlle|mme|mr|mrs|ms|mt|mts|nos|nov|oct|pp|pres|prof|pvt|rep|rev|sen|sep|sept|"
    "sgt|st|ste|supt|viz|vol|vols|vs"
)
_MAYBE_LAST = re.compile("al|assn|ave|bros|co|corp|dept|est|etc|fig|inc|jr|ltd|no|op|sr|univ")
_STARTERS = re.compile(
    "A|After|Although|An|And|As|At|Before|Both|But|During|For|From|He|Her|His|However|I|If|In|"
    "It|Its|Many|Most|On|Our|She|Since|So|Some|That|The|Their|There|These|They|This|Those|We|"
    "What|When|Where|Which|While|Who|With|You|Your"
)
"""Words that rarely begin a name, so that a full stop before them ends a sentence."""

_MARKS: dict[StopName, frozenset[str]] = {
    "end": frozenset(),
    "line": frozenset(_BREAKS),
    "sentence": frozenset(f"{_BREAKS}。！？｡।॥؟۔։።။។.!?…"),
    "tokens": frozenset(),
    "wild": frozenset(".\n"),
}
_INCOMPLETE = "\ufffd"  # what a tokenizer decodes the first bytes of a character to


@dataclasses.dataclass(frozen=True)
class Stop:
    """Where a continuation ends.

    Attributes:
        rule: The rule.
        tokens: Most new tokens, at least one.

    Raises:
        ConfigError: There is no such rule, or no token.
    """

    rule: StopName = "sentence"
    tokens: int = 30

    def __post_init__(self) -> None:
        if self.rule not in _MARKS:
            raise ConfigError(
                f"stop rule is {self.rule!r:.60}, expected one of {', '.join(_MARKS)}.",
                hint="docs/metrics.md shows where each rule ends a text.",
            )
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise ConfigError(
                f"tokens of a stop is {self.tokens!r:.60}, expected a whole number from 1.",
                hint="Use 30 for short answers, 50 for WILD's protocol.",
            )

    def __str__(self) -> str:
        """The rule in the name of a protocol: ``sentence-30``."""
        return f"{self.rule}-{self.tokens}"

    @property
    def marks(self) -> frozenset[str]:
        """Characters that a text needs to have before it can be at its end."""
        return _MARKS[self.rule]

    def reached(self, text: str) -> bool:
        """Whether a text is past its end, so that nothing that follows changes :meth:`cut`.

        Args:
            text: All that was generated up to now.
        """
        if self.rule == "wild":
            return not self.marks.isdisjoint(text)
        return self._place(text.rstrip(_INCOMPLETE).lstrip(), complete=False) is not None

    def cut(self, text: str) -> str:
        """A continuation up to its end, without the stop itself and surrounding white space.

        Args:
            text: All that was generated. For ``wild``, generation has ended with the token that
                has the stop in it, as :func:`~editkit.editing.greedy.greedy_continuations` does.
        """
        if self.rule == "wild":  # as published: a run of each stop, one after the other
            for mark in (".", "\n"):
                text = text.rstrip(mark)
            return text.strip()
        text = text.strip()
        return text[: self._place(text, complete=True)].strip()

    def _place(self, text: str, *, complete: bool) -> int | None:
        """Where a text without leading white space ends; None if it does not, or not yet."""
        if self.rule == "line":
            match = _BREAK.search(text)
            return match.start() if match else None
        if self.rule == "sentence":
            return _sentence_end(text, complete=complete)
        return None


WILD = Stop("wild", 50)
"""The stop of "The mirage of model editing"."""


def _sentence_end(text: str, *, complete: bool) -> int | None:
    """Index of the mark that ends the first sentence; None if more text may be part of it."""
    for match in _SENTENCE_END.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        if not any(map(str.isalnum, before)):
            continue
        if match["certain"]:
            return match.start()
        gap = after[: len(after) - len(after.lstrip())]
        if _BREAK.search(gap):
            return match.start()
        if after and not gap:
            continue
        follows = after[len(gap) :]
        word = follows.lstrip(_OPENING)
        if not word:
            return match.start() if complete else None
        if word[0].islower():
            continue
        if match["mark"] == ".":
            last = _LAST_WORD.search(before)
            name = last[0].replace(".", "").casefold() if last else ""
            if _BEFORE_NAMES.fullmatch(name):
                continue
            if _MAYBE_LAST.fullmatch(name) or (last and _INITIALS.fullmatch(last[0])):
                next_word = _WORD.match(word)
                if next_word and next_word.end() == len(word) and not complete:
                    return None
                if not next_word or not _STARTERS.fullmatch(next_word[0]):
                    continue
        return match.start()
    return None
