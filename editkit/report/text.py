"""Tables as text, for terminals and pipes.

A table fits the terminal, or 100 columns in a pipe: it has the columns that fit
(:mod:`editkit.report.columns`), and a line below it names the others. Tables without scores, and
all columns of a table (``--wide``), continue in further blocks of columns on a terminal. Where
stars and failure marks would cost a column, they are in the gaps, so that ``report`` has the
columns of ``run-benchmark``.
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
    run: Run,
    entries: Sequence[Mapping[str, Any]],
    *,
    terminal: bool,
    wide: bool = False,
    most_warnings: int | None = None,
) -> str:
    """The table at the end of a run, with a warning below for each cell with failed edits.

    Args:
        run: The run.
        entries: The entries of its cells in the ``--json`` document.
        terminal: As for :func:`report`; bold is not replaced by stars.
        wide: Whether all columns are printed.
        most_warnings: How many warnings to print, with a count of the others; None: all.
    """
    labels = labels_of(run)
    if any(not cell.regime.is_independent for cell in run.cells):
        [section] = sections_of([run], [()])
        tables = section.main_tables()
    else:
        tables = [_scores(run, labels, entries)]
    summaries = zip(labels, (entry["edits"]["summary"] for entry in entries), strict=True)
    warnings = [f"{label}: {text}" for label, text in summaries if text]
    if most_warnings is not None and len(warnings) > most_warnings + 1:
        left_out = len(warnings) - most_warnings
        more = f"{left_out} more settings have warnings about their edits; --wide prints them."
        warnings[most_warnings:] = [more]
    below = "".join(wrapped(f"warning: {each}") for each in warnings)
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
    kept, in_gaps = list(range(len(table.head))), False
    if not wide:
        kept = kept_columns(table, _widths(_texts(table, starred)), limit, len(GAP))
        room = limit - _has_failures(table)  # the last column may have a mark behind it
        without_marks = kept_columns(table, _widths(_plain_texts(table)), room, len(GAP))
        if in_gaps := len(without_marks) > len(kept):
            kept = without_marks
    shown = narrowed(table, kept)
    legend, left_out = legend_of(shown, explained), note_on_left_out(table, kept)
    notes = [f"{legend}."] * bool(legend)
    notes += [f"{left_out} --wide shows all columns."] * bool(left_out)
    width = UNLIMITED if wide and not terminal else limit
    text = text_table(shown, terminal=terminal, starred=starred, width=width, in_gaps=in_gaps)
    return text, "".join(wrapped(note, limit) for note in notes)


def text_table(
    table: Table,
    *,
    terminal: bool,
    starred: bool = False,
    width: int | None = None,
    in_gaps: bool = False,
) -> str:
    """All columns of a table, aligned, with a rule below the head; in blocks if they do not fit.

    Args:
        table: The table.
        terminal: Whether it may have colours.
        starred: Whether a star marks bold entries.
        width: Characters of a line; by default :func:`editkit.terminal.line_width`.
        in_gaps: Whether stars and failure marks are in the gaps between columns.
    """
    from rich.cells import cell_len
    from rich.text import Text

    limit, gap, left = width or line_width(terminal=terminal), GAP, table.left_aligned
    if in_gaps:  # a column has its mark's place behind it, and its star's before it
        gap, limit = "", limit + (not _has_failures(table))
        texts = [
            [_with_marks(entry, i, starred, left[i]) for i, entry in enumerate(line.entries)]
            for line in _with_head(table)
        ]
        widths = [n + len(GAP) - (i == 0) for i, n in enumerate(_widths(_plain_texts(table)))]
    else:
        texts = _texts(table, starred)
        widths = _widths(texts)
    lines = _with_head(table)

    def padded(text: str, column: int) -> str:
        space = " " * (widths[column] - cell_len(text))
        return text + space if left[column] else space + text

    blocks = []
    for columns in column_blocks(widths, limit, len(gap), table.keys):
        head, *body = (
            Text(gap).join(
                Text(padded(words[i], i), _style(line.entries[i], line)) for i in columns
            )
            for line, words in zip(lines, texts, strict=True)
        )
        head.rstrip()
        blocks.append(rendered(head, Text("-" * head.cell_len), *body, terminal=terminal))
    return "\n".join(blocks)


def _with_head(table: Table) -> list[Line]:
    return [Line(tuple(Entry(head) for head in table.head)), *table.lines]


def _texts(table: Table, starred: bool) -> list[list[str]]:
    """The entries as printed, the heads first."""
    has_marks = _has_failures(table)
    return [
        [_printed(entry, has_marks, starred) for entry in line.entries]
        for line in _with_head(table)
    ]


def _plain_texts(table: Table) -> list[list[str]]:
    """The entries without marks, the heads first."""
    return [[_unmarked(entry) for entry in line.entries] for line in _with_head(table)]


def _has_failures(table: Table) -> bool:
    return any(entry.failed for line in table.lines for entry in line.entries)


def _widths(texts: Sequence[Sequence[str]]) -> list[int]:
    from rich.cells import cell_len

    return [max(map(cell_len, column)) for column in zip(*texts, strict=True)]


def _printed(entry: Entry, has_marks: bool, starred: bool) -> str:
    """The entry; in a table with failure marks, other numbers leave room for a mark."""
    text = _unmarked(entry)
    text = f"*{text}" if entry.bold and starred else text
    if not has_marks or not entry.spread:
        return f"{text}!" if entry.failed else text
    return text + ("!" if entry.failed else " ")


def _with_marks(entry: Entry, column: int, starred: bool, left: bool) -> str:
    """The entry between the places of its marks, which are the gaps; see :func:`text_table`."""
    star = "*" if entry.bold and starred else " " if left and column else ""
    return f"{star}{_unmarked(entry)}{'!' if entry.failed else ' '}"


def _unmarked(entry: Entry) -> str:
    return shortened(one_line(entry.plain), _WIDEST_ENTRY)


def _style(entry: Entry, line: Line) -> str:
    styles = {"bold": entry.bold, "red": entry.failed, "dim": line.faint}
    return " ".join(style for style, applies in styles.items() if applies) or "none"
