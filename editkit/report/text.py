"""Tables as text, for terminals and pipes.

On a terminal, wide tables continue in further blocks of columns. Piped tables have one line per
row.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from editkit.benchmark.aggregate import Estimate
from editkit.report.labels import labels_of, run_title
from editkit.report.lines import (
    best_means,
    notes_on_intervals,
    notes_on_records,
    score_columns,
    score_heads,
    score_line,
)
from editkit.report.sections import Section, sections_of
from editkit.report.tables import Entry, Line, Table
from editkit.results import Run
from editkit.safe_text import one_line, shortened
from editkit.terminal import GAP, UNLIMITED, rendered, wrapped

__all__ = ["report", "run_table", "text_table"]

_WIDEST_ENTRY = 60  # characters of a label or a relation


def report(sections: Sequence[Section], *, against: str | None, terminal: bool) -> str:
    """The tables of every run.

    Args:
        sections: The runs.
        against: Editor that the others are compared with; by default the best one.
        terminal: Whether the text may have colours and must fit the width of the terminal.
    """
    parts = []
    for section in sections:
        parts.append(f"{one_line(section.title)}\n")
        parts += [wrapped(f"warning: {warning}") for warning in section.warnings]
        for table in section.tables(against):
            title = "" if table.name == "scores" else f"{table.title}\n"
            below = [wrapped(f"warning: {warning}") for warning in table.warnings]
            below += [wrapped(note) for note in table.legend("Bold" if terminal else "*")]
            rows = text_table(table, terminal=terminal, starred=not terminal)
            parts.append(f"\n{title}{rows}{''.join(below)}")
        parts.append("\n\n")
    return "".join(parts).rstrip("\n") + "\n"


def run_table(run: Run, entries: Sequence[Mapping[str, Any]], *, terminal: bool) -> str:
    """The table at the end of a run, with a warning below for each cell with failed edits.

    Args:
        run: The run.
        entries: The entries of its cells in the ``--json`` document.
        terminal: As for :func:`report`; bold is not replaced by stars.
    """
    labels = labels_of(run)
    if any(not cell.regime.is_independent for cell in run.cells):
        [section] = sections_of([run], [()])
        tables = section.main_tables()
    else:
        tables = [_scores(run, labels, entries)]
    summaries = zip(labels, (entry["edits"]["summary"] for entry in entries), strict=True)
    below = "".join(wrapped(f"warning: {label}: {text}") for label, text in summaries if text)
    parts = []
    for table in tables:
        title = "" if table.name == "scores" else f"{table.title}\n"
        notes = "".join(map(wrapped, table.notes))
        parts.append(f"{title}{text_table(table, terminal=terminal)}{notes}")
    return "\n".join([f"{run_title(run)}\n", *parts, *([below] if below else [])])


def _scores(run: Run, labels: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> Table:
    """The table of scores of independent cells, from their entries."""
    estimates = [
        {key: Estimate(**values) for key, values in entry["metrics"].items()} for entry in entries
    ]
    columns = score_columns(run.scores, estimates)
    editors = [cell.editor for cell in run.cells]
    best = best_means(columns, zip(editors, estimates, strict=True))
    lines = tuple(
        score_line([Entry(label)], editor, own, columns, entry, best=best)
        for label, editor, own, entry in zip(labels, editors, estimates, entries, strict=True)
    )
    counted = zip(estimates, (entry["records"]["done"] for entry in entries), strict=True)
    notes = (*notes_on_records(run.scores, counted), *notes_on_intervals(lines))
    return Table("scores", "", score_heads(("editor",), columns), lines, notes=notes)


def text_table(
    table: Table, *, terminal: bool, starred: bool = False, width: int | None = None
) -> str:
    """A table with a rule below its head and aligned columns.

    Args:
        table: The table.
        terminal: Whether it may have colours and must fit ``width``.
        starred: Whether a star marks bold entries.
        width: Columns of the terminal; by default those of standard output.
    """
    from rich.cells import cell_len
    from rich.text import Text

    lines = [Line(tuple(Entry(head) for head in table.head)), *table.lines]
    has_marks = any(entry.failed for line in lines for entry in line.entries)
    texts = [[_printed(entry, has_marks, starred) for entry in line.entries] for line in lines]
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]

    left = table.left_aligned

    def padded(text: str, column: int) -> str:
        space = " " * (widths[column] - cell_len(text))
        return text + space if left[column] else space + text

    limit = (width or shutil.get_terminal_size().columns) if terminal else UNLIMITED
    blocks = []
    for columns in _blocks_of(widths, limit, table.keys):
        head, *body = (
            Text(GAP).join(
                Text(padded(words[i], i), _style(line.entries[i], line)) for i in columns
            )
            for line, words in zip(lines, texts, strict=True)
        )
        blocks.append(rendered(head, Text("-" * head.cell_len), *body, terminal=terminal))
    return "\n".join(blocks)


def _blocks_of(widths: Sequence[int], limit: int, keys: int) -> Iterator[list[int]]:
    """Indices of the columns of each block; every block begins with the ``keys`` first columns."""
    first, width_of_first = list(range(keys)), sum(widths[:keys]) + len(GAP) * (keys - 1)
    block, taken = [*first], width_of_first
    for i, width in enumerate(widths[keys:], start=keys):
        if taken + len(GAP) + width > limit and len(block) > keys:
            yield block
            block, taken = [*first], width_of_first
        block.append(i)
        taken += len(GAP) + width
    yield block


def _printed(entry: Entry, has_marks: bool, starred: bool) -> str:
    """The entry; in a table with failure marks, other numbers leave room for a mark."""
    text = shortened(one_line(entry.plain), _WIDEST_ENTRY)
    text = f"*{text}" if entry.bold and starred else text
    if not has_marks or not entry.spread:
        return f"{text}!" if entry.failed else text
    return text + ("!" if entry.failed else " ")


def _style(entry: Entry, line: Line) -> str:
    styles = {"bold": entry.bold, "red": entry.failed, "dim": line.faint}
    return " ".join(style for style, applies in styles.items() if applies) or "none"
