"""Tables for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from editkit.report.display import one_line, shortened
from editkit.report.grid import Entry, Grid, Line
from editkit.report.sections import Section

_BOLD, _FAINT, _RED, _END = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[0m"
_WIDTH = 100
_WIDEST = 60  # characters of a label or a relation


def report(sections: Sequence[Section], *, against: str | None, terminal: bool) -> str:
    """Every run with its tables.

    Args:
        sections: The runs.
        against: Editor that others are compared with.
        terminal: Whether bold type and colour may be used.
    """
    parts = []
    for section in sections:
        parts.append(f"{one_line(section.title)}\n")
        parts += [wrapped(f"warning: {warning}") for warning in section.warnings]
        for grid in section.grids(against):
            title = "" if grid.name == "scores" else f"{grid.title}\n"
            below = [wrapped(f"warning: {warning}") for warning in grid.warnings]
            below += [wrapped(note) for note in grid.notes]
            parts.append(f"\n{title}{aligned(grid, terminal=terminal)}{''.join(below)}")
        parts.append("\n\n")
    return "".join(parts).rstrip("\n") + "\n"


def aligned(grid: Grid, *, terminal: bool, starred: bool | None = None) -> str:
    """A table with aligned columns and a rule below its head.

    Args:
        grid: The table.
        terminal: Whether bold type and colour may be used.
        starred: Whether what should be bold gets a star; by default where it cannot be bold.
    """
    lines = [Line(tuple(Entry(head) for head in grid.head)), *grid.lines]
    is_marked = any(entry.failed for line in lines for entry in line.entries)
    stars = not terminal if starred is None else starred
    texts = [[_text(entry, is_marked, stars) for entry in line.entries] for line in lines]
    widths = [max(len(text) for text in column) for column in zip(*texts, strict=True)]
    written = []
    for line, words in zip(lines, texts, strict=True):
        padded = [
            word.ljust(width) if i == 0 else word.rjust(width)
            for i, (word, width) in enumerate(zip(words, widths, strict=True))
        ]
        if terminal:
            padded = [
                _dressed(word, entry, line)
                for word, entry in zip(padded, line.entries, strict=True)
            ]
        written.append("  ".join(padded).rstrip())
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([written[0], rule, *written[1:]]) + "\n"


def _text(entry: Entry, is_marked: bool, starred: bool) -> str:
    """The entry, with room for a mark where some number of the table has one."""
    text = shortened(one_line(entry.plain), _WIDEST)
    text = f"*{text}" if entry.bold and starred else text
    if not is_marked or not entry.half:
        return f"{text}!" if entry.failed else text
    return text + ("!" if entry.failed else " ")


def _dressed(word: str, entry: Entry, line: Line) -> str:
    before = (_BOLD if entry.bold else "") + (_RED if entry.failed else "") + (_FAINT * line.faint)
    return f"{before}{word}{_END}" if before else word


def wrapped(text: str) -> str:
    """A sentence over as many lines as it needs."""
    text = one_line(text)
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False) + "\n"
