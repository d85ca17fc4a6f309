"""Texts of unknown origin as a terminal, a line of a table, or a spreadsheet can show them.

Names, prompts and what models write may hold anything: line breaks that tear a table, escape
sequences that a terminal obeys, marks that turn the direction of all that follows, formulas.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["cell_text", "one_line", "shortened"]

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_BREAKS = re.compile(r"[^\S ]+")
_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"[-+]?[0-9.]+(?:e[-+]?[0-9]+)?", re.IGNORECASE)


def one_line(text: str) -> str:
    """The text on one line; what a terminal obeys, and what turns the direction, is written out."""
    if text.isascii() and text.isprintable():
        return text
    words = _BREAKS.sub(" ", text)
    return "".join(_escape(each) if _is_obeyed(each) else each for each in words)


def shortened(text: str, width: int) -> str:
    """The text, cut to a number of characters with an ellipsis."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def cell_text(text: str) -> str:
    """The text as a spreadsheet shows it: what it would take for a formula gets an apostrophe."""
    if len(text) > 1 and _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def _is_obeyed(character: str) -> bool:
    return character in _TURNING or unicodedata.category(character) in ("Cc", "Cs")


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
