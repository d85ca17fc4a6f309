"""Which columns of a table are shown where it does not fit, and what their heads mean.

Columns are kept in the order of :func:`by_importance`, as many as fit: the summary score S, the
scores that it sums up, other scores, then signed ones (margins and changes), each in the order of
the metrics; seconds and records last. S and its parts are always kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from editkit.benchmark.aggregate import SUMMARY
from editkit.data_types import Score
from editkit.report.tables import Line, Table

__all__ = [
    "by_importance",
    "kept_columns",
    "legend_of",
    "narrowed",
    "note_on_left_out",
]


def by_importance(table: Table) -> list[int]:
    """Indices of the columns after the keys, the most important one first.

    A table that does not name its scores keeps its order.
    """
    columns = range(table.keys, len(table.head))
    return sorted(columns, key=lambda i: _rank(table.scores.get(table.head[i]), table))


def _rank(score: Score | None, table: Table) -> int:
    if score is None:
        return 4 if table.scores else 0
    if _is_main(score):
        return 0 if score.key == SUMMARY.key else 1
    return 3 if score.signed else 2


def _is_main(score: Score) -> bool:
    return score.key == SUMMARY.key or score.summary


def kept_columns(table: Table, widths: Sequence[float], limit: float, gap: float) -> list[int]:
    """Indices of all columns that are shown, in the table's order.

    Args:
        table: The table; all columns are kept if it does not name its scores.
        widths: Width of each column.
        limit: Width of the page, in the same unit.
        gap: Space between two columns.
    """
    if not table.scores:
        return list(range(len(table.head)))
    kept = list(range(table.keys))
    taken = sum(widths[: table.keys]) + gap * (table.keys - 1)
    for i in by_importance(table):
        taken += gap + widths[i]
        score = table.scores.get(table.head[i])
        is_first = len(kept) == table.keys
        if taken > limit and not is_first and not (score is not None and _is_main(score)):
            break
        kept.append(i)
    return sorted(kept)


def narrowed(table: Table, kept: Sequence[int]) -> Table:
    """The table with some of its columns."""
    return dataclasses.replace(
        table,
        head=tuple(table.head[i] for i in kept),
        lines=tuple(Line(tuple(line.entries[i] for i in kept), line.faint) for line in table.lines),
        keys=sum(i < table.keys for i in kept),
    )


def note_on_left_out(table: Table, kept: Collection[int]) -> str:
    """The names of the columns that are not shown; empty if all are."""
    left = [head for i, head in enumerate(table.head) if i not in kept]
    return f"Columns left out: {', '.join(left)}." if left else ""


def legend_of(table: Table, explained: Collection[str] = ()) -> str:
    """What the heads of a table's scores mean, in a few words each; empty if nothing is new.

    Args:
        table: The table, with the columns that are shown.
        explained: Heads that another legend has explained.
    """
    return "; ".join(
        f"{head}: {table.scores[head].name or table.scores[head].key}"
        for head in table.head
        if head in table.scores and head not in explained
    )
