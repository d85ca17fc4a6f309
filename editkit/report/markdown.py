"""Tables in GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from editkit.report.grid import Entry, Grid
from editkit.report.sections import Section

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#])")


def report(sections: Sequence[Section], *, against: str | None) -> str:
    """Every run with its tables."""
    parts = []
    for section in sections:
        parts.append(f"## {escaped(section.title)}\n")
        parts += [f"> **Warning:** {escaped(warning)}\n" for warning in section.warnings]
        for grid in section.grids(against):
            if grid.name != "scores":
                parts.append(f"### {escaped(grid.title)}\n")
            parts.append(table(grid))
            parts += [f"> **Warning:** {escaped(warning)}\n" for warning in grid.warnings]
            parts += [f"{escaped(note)}\n" for note in grid.notes]
    return "\n".join(parts)


def table(grid: Grid) -> str:
    """One table; its first column is left-aligned, numbers are right-aligned."""
    lines = [[escaped(head) for head in grid.head]]
    lines.append(["---"] + ["---:"] * (len(grid.head) - 1))
    lines += [[_text(entry, faint=line.faint) for entry in line.entries] for line in grid.lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _text(entry: Entry, *, faint: bool) -> str:
    text = escaped(entry.plain)
    if text and (entry.bold or faint):
        text = f"**{text}**" if entry.bold else f"*{text}*"
    return f"{text} !" if entry.failed else text
