"""Tables in GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from editkit.report.columns import legend_of
from editkit.report.sections import Section
from editkit.report.tables import Entry, Table

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#])")


def report(sections: Sequence[Section], *, against: str | None) -> str:
    """The tables of every run, with all columns.

    Args:
        sections: The runs.
        against: Editor that the others are compared with; by default the best one.
    """
    parts = []
    for section in sections:
        parts.append(f"## {escaped(section.title)}\n")
        parts += [f"> **Warning:** {escaped(warning)}\n" for warning in section.warnings]
        explained: set[str] = set()
        for table in section.tables(against):
            parts.append(section_of(table, titled=table.name != "scores", explained=explained))
            explained |= {*table.scores, *table.legend()}
    return "\n".join(parts)


def section_of(table: Table, *, titled: bool = True, explained: Collection[str] = ()) -> str:
    """A table with its title, warnings and notes.

    Args:
        table: The table.
        titled: Whether its title is above it.
        explained: Heads of columns, and notes, that earlier tables have explained.
    """
    legend = legend_of(table, explained)
    parts = [f"### {escaped(table.title)}\n"] if titled else []
    parts.append(_table(table))
    parts += [f"{escaped(legend)}.\n"] * bool(legend)
    parts += [f"> **Warning:** {escaped(warning)}\n" for warning in table.warnings]
    parts += [f"{escaped(note)}\n" for note in table.legend() if note not in explained]
    return "\n".join(parts)


def _table(table: Table) -> str:
    lines = [[escaped(head) for head in table.head]]
    lines.append(["---" if left else "---:" for left in table.left_aligned])
    lines += [[_text(entry, faint=line.faint) for entry in line.entries] for line in table.lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def escaped(text: str) -> str:
    """Text that Markdown renders literally."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _text(entry: Entry, *, faint: bool) -> str:
    text = escaped(entry.plain)
    if text and (entry.bold or faint):
        text = f"**{text}**" if entry.bold else f"*{text}*"
    return f"{text} !" if entry.failed else text
