"""Where a model's own text ends: named rules, which are part of a metric's protocol.

A greedy continuation runs on after the answer (``Paris. It was built in``), and how much of it
counts decides whether an answer is right::

    end        up to the token that ends the text
    line       up to the first line break after something else than white space
    sentence   up to the first full stop, question or exclamation mark that ends a sentence, or line
    tokens     a fixed number of tokens, whatever they are

Every rule also stops at the end-of-text token and after ``tokens`` tokens.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal, TypeAlias

__all__ = ["Stop", "StopName"]

StopName: TypeAlias = Literal["end", "line", "sentence", "tokens"]
"""Name of a rule."""

_SENTENCE = re.compile(r"[.!?](?=\s|$)|\n")


@dataclasses.dataclass(frozen=True)
class Stop:
    """Where a continuation ends.

    Attributes:
        rule: The rule.
        tokens: Most new tokens.
    """

    rule: StopName = "sentence"
    tokens: int = 30

    def __str__(self) -> str:
        """The rule in the name of a protocol: ``sentence-30``."""
        return f"{self.rule}-{self.tokens}"

    def cut(self, text: str) -> str:
        """A continuation up to its end, without the stop itself and surrounding white space."""
        text = text.strip()
        if self.rule in ("end", "tokens"):
            return text
        if self.rule == "line":
            return text.splitlines()[0].strip() if text else ""
        return _SENTENCE.split(text, maxsplit=1)[0].strip()
