"""Tables as text, for terminals and pipes.

A table fits the terminal, or 100 columns in a pipe: it has the columns that fit
(:mod:`editkit.report.columns`), and a line below it names the others. Tables without scores, and
all columns of a table (``--wide``), continue in further blocks of columns on a terminal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from editkit.benchmark.aggregate import Estimate
from editkit.report.columns import (
    kept_columns,
    legend_of,
    narrowed,
    note_on_left_out,
)
from editkit.report.labels import labels_of, run_title
from editkit.report.lines import (
    best_means,
    notes_on_intervals,
    notes_on_records,
    score_columns,
    score_heads,
    score_line,
    scores_by_head,
)
from editkit.report.sections import Section, sections_of
from editkit.report.tables import Entry, Line, Table
from editkit.results import Run
from editkit.safe_text import one_line, shortened
from editkit.terminal import GAP, UNLIMITED, column_blocks, line_width, rendered, wrapped

__all__ = ["fitted", "report", "run_table", "text_table"]

_WIDEST_ENTRY = 60  # characters of a label or a relation


def report(
    sections: Sequence[Section], *, against: str | None, terminal: bool, wide: bool = False
) -> str:
    """The tables of every run.

    Args:
        sections: The runs.
        against: Editor that the others are compared with; by default the best one.
        terminal: Whether the text may have colours and must fit the width of the terminal.
        wide: Whether all columns are printed.
    """
    parts = []
    for section in sections:
        parts.append(wrapped(section.title, line_width(terminal=terminal)))
        parts += [wrapped(f"warning: {warning}") for warning in section.warnings]
        explained: set[str] = set()
        for table in section.tables(against):
            title = "" if table.name == "scores" else wrapped(table.title)
            shown, notes = fitted(
                table, terminal=terminal, starred=not terminal, wide=wide, explained=explained
            )
            below = [wrapped(f"warning: {warning}") for warning in table.warnings]
            legend = [wrapped(note) for note in table.legend("Bold" if terminal else "*")]
            below += [note for note in legend if note not in explained]
            parts.append(f"\n{title}{shown}{notes}{''.join(below)}")
            explained |= {*table.scores, *legend}
        parts.append("\n\n")
    return "".join(parts).rstrip("\n") + "\n"


def run_table(
    run: Run, entries: Sequence[Mapping[str, Any]], *, terminal: bool, wide: bool = False
) -> str:
    """The table at the end of a run, with a warning below for each cell with failed edits.

    Args:
        run: The run.
        entries: The entries of its cells in the ``--json`` document.
        terminal: As for :func:`report`; bold is not replaced by stars.
        wide: Whether all columns are printed.
    """
    labels = labels_of(run)
    if any(not cell.regime.is_independent for cell in run.cells):
        [section] = sections_of([run], [()])
        tables = section.main_tables()
    else:
        tables = [_scores(run, labels, entries)]
    summaries = zip(labels, (entry["edits"]["summary"] for entry in entries), strict=True)
    below = "".join(wrapped(f"warning: {label}: {text}") for label, text in summaries if text)
    title_line = wrapped(run_title(run), line_width(terminal=terminal))
    parts, explained = [], set[str]()
    for table in tables:
        title = "" if table.name == "scores" else f"{table.title}\n"
        shown, more = fitted(table, terminal=terminal, wide=wide, explained=explained)
        below_table = [wrapped(note) for note in table.notes]
        new = [note for note in below_table if note not in explained]
        parts.append(f"{title}{shown}{more}{''.join(new)}")
        explained |= {*table.scores, *below_table}
    return "\n".join([title_line, *parts, *([below] if below else [])])


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
    head = score_heads(("editor",), columns)
    return Table("scores", "", head, lines, notes=notes, scores=scores_by_head(columns, run.scores))


def fitted(
    table: Table,
    *,
    terminal: bool,
    starred: bool = False,
    wide: bool = False,
    width: int | None = None,
    explained: Collection[str] = (),
) -> tuple[str, str]:
    """The table with the columns that fit, and the lines below it that explain them.

    Args:
        table: The table.
        terminal: As for :func:`text_table`.
        starred: As for :func:`text_table`.
        wide: Whether all columns are shown; in a pipe, rows are then as long as they need to be.
        width: Characters of a line; by default :func:`editkit.terminal.line_width`.
        explained: Heads of columns that need no explanation.
    """
    limit = width or line_width(terminal=terminal)
    kept = list(range(len(table.head)))
    if not wide:
        kept = kept_columns(table, _widths(_texts(table, starred)), limit, len(GAP))
    shown = narrowed(table, kept)
    legend, left_out = legend_of(shown, explained), note_on_left_out(table, kept)
    notes = [f"{legend}."] * bool(legend)
    notes += [f"{left_out} --wide shows all columns."] * bool(left_out)
    width = UNLIMITED if wide and not terminal else limit
    text = text_table(shown, terminal=terminal, starred=starred, width=width)
    return text, "".join(wrapped(note, limit) for note in notes)


def text_table(
    table: Table, *, terminal: bool, starred: bool = False, width: int | None = None
) -> str:
    """All columns of a table, aligned, with a rule below the head; in blocks if they do not fit.

    Args:
        table: The table.
        terminal: Whether it may have colours.
        starred: Whether a star marks bold entries.
        width: Characters of a line; by default :func:`editkit.terminal.line_width`.
    """
    from rich.cells import cell_len
    from rich.text import Text

    texts = _texts(table, starred)
    widths, left = _widths(texts), table.left_aligned
    lines = _with_head(table)

    def padded(text: str, column: int) -> str:
        space = " " * (widths[column] - cell_len(text))
        return text + space if left[column] else space + text

    blocks = []
    limit = width or line_width(terminal=terminal)
    for columns in column_blocks(widths, limit, len(GAP), table.keys):
        head, *body = (
            Text(GAP).join(
                Text(padded(words[i], i), _style(line.entries[i], line)) for i in columns
            )
            for line, words in zip(lines, texts, strict=True)
        )
        blocks.append(rendered(head, Text("-" * head.cell_len), *body, terminal=terminal))
    return "\n".join(blocks)


def _with_head(table: Table) -> list[Line]:
    return [Line(tuple(Entry(head) for head in table.head)), *table.lines]


def _texts(table: Table, starred: bool) -> list[list[str]]:
    """The entries as printed, the heads first."""
    has_marks = any(entry.failed for line in table.lines for entry in line.entries)
    return [
        [_printed(entry, has_marks, starred) for entry in line.entries]
        for line in _with_head(table)
    ]


def _widths(texts: Sequence[Sequence[str]]) -> list[int]:
    from rich.cells import cell_len

    return [max(map(cell_len, column)) for column in zip(*texts, strict=True)]


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
