"""Tables in GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from editkit.report.columns import kept_columns, legend_of, narrowed, note_on_left_out
from editkit.report.sections import Section
from editkit.report.tables import Entry, Table

_WIDTH, _GAP = 100, 3  # characters of a line; between two columns
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#])")


def report(sections: Sequence[Section], *, against: str | None, wide: bool = False) -> str:
    """The tables of every run, with the columns that a page of 100 characters has room for.

    Args:
        sections: The runs.
        against: Editor that the others are compared with; by default the best one.
        wide: Whether all columns are shown.
    """
    parts = []
    for section in sections:
        parts.append(f"## {escaped(section.title)}\n")
        parts += [f"> **Warning:** {escaped(warning)}\n" for warning in section.warnings]
        explained: set[str] = set()
        for table in section.tables(against):
            parts.append(
                section_of(table, titled=table.name != "scores", wide=wide, explained=explained)
            )
            explained |= {*table.scores, *table.legend()}
    return "\n".join(parts)


def section_of(
    table: Table, *, titled: bool = True, wide: bool = False, explained: Collection[str] = ()
) -> str:
    """A table with its title, warnings and notes.

    Args:
        table: The table.
        titled: Whether its title is above it.
        wide: Whether all columns are shown.
        explained: Heads of columns, and notes, that earlier tables have explained.
    """
    kept = list(range(len(table.head)))
    if not wide:
        kept = kept_columns(table, _widths(table), _WIDTH, _GAP)
    shown = narrowed(table, kept)
    notes = [legend_of(shown, explained), note_on_left_out(table, kept).rstrip(".")]
    parts = [f"### {escaped(table.title)}\n"] if titled else []
    parts.append(_table(shown))
    parts += [f"{escaped(note)}.\n" for note in notes if note]
    parts += [f"> **Warning:** {escaped(warning)}\n" for warning in table.warnings]
    parts += [f"{escaped(note)}\n" for note in table.legend() if note not in explained]
    return "\n".join(parts)


def _table(table: Table) -> str:
    lines = [[escaped(head) for head in table.head]]
    lines.append(["---" if left else "---:" for left in table.left_aligned])
    lines += [[_text(entry, faint=line.faint) for entry in line.entries] for line in table.lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _widths(table: Table) -> list[int]:
    columns = zip(
        table.head, *([e.plain for e in line.entries] for line in table.lines), strict=True
    )
    return [max(map(len, column)) for column in columns]


def escaped(text: str) -> str:
    """Text that Markdown renders literally."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _text(entry: Entry, *, faint: bool) -> str:
    text = escaped(entry.plain)
    if text and (entry.bold or faint):
        text = f"**{text}**" if entry.bold else f"*{text}*"
    return f"{text} !" if entry.failed else text
