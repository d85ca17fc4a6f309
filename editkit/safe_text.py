"""Makes untrusted text safe to print: in a terminal, on one line of a table, in a spreadsheet.

Names, prompts and generated texts can hold anything: line breaks that break a table, escape
sequences that control a terminal, marks that reverse the reading direction, spreadsheet formulas.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["one_line", "shortened", "spreadsheet_text"]

_DIRECTION_MARKS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_BREAKS = re.compile(r"[^\S ]+")
_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"[-+]?[0-9.]+(?:e[-+]?[0-9]+)?", re.IGNORECASE)


def one_line(text: str) -> str:
    """The text on one line, with control characters and direction marks written as escapes."""
    if text.isascii() and text.isprintable():
        return text
    words = _BREAKS.sub(" ", text)
    return "".join(_escaped(each) if _is_unsafe(each) else each for each in words)


def shortened(text: str, width: int) -> str:
    """The text, cut to ``width`` characters; an ellipsis marks the cut."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def spreadsheet_text(text: str) -> str:
    """The text as a CSV value: an apostrophe in front stops spreadsheets from running formulas."""
    if len(text) > 1 and _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def _is_unsafe(character: str) -> bool:
    return character in _DIRECTION_MARKS or unicodedata.category(character) in ("Cc", "Cs")


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
