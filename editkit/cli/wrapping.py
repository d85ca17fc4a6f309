"""Texts in columns on a terminal, with some words marked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

_END = "\x1b[0m"
_SEPARATOR = " | "
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """The text on one line, composed, with nothing in it that could command a terminal."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(_REPLACEMENT if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def columns(texts: Sequence[str], width: int, marks: Mapping[str, str]) -> list[str]:
    """Lines with the texts side by side.

    Args:
        texts: One per column.
        width: Of all columns together, in a terminal's cells.
        marks: Words to mark, with the codes that switch each one's look on; none: plain text.
    """
    each = column_width(len(texts), width)
    blocks = [list(wrapped(text, each, marks)) for text in texts]
    lines = []
    for parts in zip_longest(*blocks, fillvalue=("", 0)):
        cells = [shown + " " * (each - taken) for shown, taken in parts]
        lines.append(_SEPARATOR.join(cells).rstrip())
    return lines


def column_width(n: int, width: int) -> int:
    """Width of each of ``n`` columns."""
    return max(1, (width - len(_SEPARATOR) * (n - 1)) // n)


def wrapped(text: str, width: int, marks: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Lines of a text with the cells that each one takes, marks not counted."""
    text = printable(text)
    codes = _codes(text, marks)
    for start, end in _lines(text, width):
        yield _marked(text, codes, start, end), cells(text[start:end])


def cells(text: str) -> int:
    """Cells of a terminal that a text takes."""
    return sum(map(_cell, text))


def _cell(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _lines(text: str, width: int) -> Iterator[tuple[int, int]]:
    """Where each line starts and ends: words stay whole as far as they fit."""
    start = end = taken = 0
    for word in re.finditer(r"\S+", text):
        here = word.start()
        if end > start and taken + 1 + cells(word.group()) <= width:
            taken += 1 + cells(word.group())
            end = word.end()
            continue
        if end > start:
            yield start, end
        start = end = here
        taken = 0
        for place in range(here, word.end()):  # a word that is longer than a line is cut
            if taken + _cell(text[place]) > width and place > start:
                yield start, place
                start, taken = place, 0
            taken += _cell(text[place])
            end = place + 1
    if end > start:
        yield start, end


def _codes(text: str, marks: Mapping[str, str]) -> list[str]:
    """The code of every character's look."""
    codes = [""] * len(text)
    for word, code in marks.items():
        wanted = r"\s+".join(map(re.escape, printable(word).split()))
        if not wanted:
            continue
        for found in re.finditer(rf"(?<!\w){wanted}(?!\w)", text, re.IGNORECASE):
            codes[found.start() : found.end()] = [code] * (found.end() - found.start())
    return codes


def _marked(text: str, codes: Sequence[str], start: int, end: int) -> str:
    parts = []
    look = ""
    for place in range(start, end):
        if codes[place] != look:
            parts.append((_END if look else "") + codes[place])
            look = codes[place]
        parts.append(text[place])
    return "".join(parts) + (_END if look else "")
