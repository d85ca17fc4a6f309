"""Lists and sentences for terminals and pipes; rich does the layout and the colours.

Tables fit the terminal; piped ones are at most 100 columns wide, or as wide as the environment
variable ``COLUMNS``. On a terminal, lists wrap their last column. Piped lists have one line per
row, so they can be searched and cut. Nothing piped has control codes.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from editkit.safe_text import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

__all__ = [
    "GAP",
    "UNLIMITED",
    "aligned",
    "column_blocks",
    "columns",
    "line_width",
    "rendered",
    "wrapped",
]

_PIPED_TABLE = 100
_NARROWEST = 16  # of a last column that wraps
_PIPED_WIDTH = 80  # of sentences
_WIDEST_SENTENCE = 100
UNLIMITED = 1_000_000
GAP = "  "


def line_width(*, terminal: bool) -> int:
    """The width of tables: ``COLUMNS`` of the environment, or else that of the terminal.

    Args:
        terminal: Whether the table is printed on a terminal; otherwise it has 100 columns.
    """
    fallback = 80 if terminal else _PIPED_TABLE
    if terminal or os.environ.get("COLUMNS", "").isdecimal():
        return shutil.get_terminal_size((fallback, 24)).columns
    return fallback


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows with aligned columns. On a terminal, the last column wraps; if the others leave no room
    for it, the rows continue below, each with its first column again.

    Args:
        rows: Texts of any origin, the same number in each row.
    """
    from rich.cells import cell_len

    texts = [[one_line(text) for text in row] for row in rows]
    terminal = sys.stdout.isatty()
    if not terminal:
        return _grid(texts, terminal=False, width=UNLIMITED)
    width = line_width(terminal=True)
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    wrapping = [*widths[:-1], min(widths[-1], _NARROWEST)]
    parts = column_blocks(wrapping, width, len(GAP), 1)
    return "\n".join(
        _grid([[row[i] for i in part] for row in texts], terminal=True, width=width)
        for part in parts
    )


def _grid(rows: Sequence[Sequence[str]], *, terminal: bool, width: int) -> str:
    from rich.table import Table as Grid
    from rich.text import Text

    table = Grid(box=None, show_header=False, pad_edge=False, padding=(0, len(GAP), 0, 0))
    for i in range(len(rows[0])):
        table.add_column(no_wrap=i < len(rows[0]) - 1, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return rendered(table, terminal=terminal, width=width)


def columns(labels: Sequence[str], rows: Sequence[Sequence[Text]]) -> RenderableType:
    """Texts side by side, each wrapped in its column, with lines between columns and rows.

    Args:
        labels: Head of each column, of any origin.
        rows: Safe texts, one per column in each row.
    """
    from rich.box import Box
    from rich.table import Table as Grid
    from rich.text import Text

    lines = ["    ", "  | ", "----", "  | ", "----", "----", "  | ", "    "]
    box = Box("".join(f"{line}\n" for line in lines), ascii=True)
    table = Grid(box=box, show_edge=False, show_lines=True, pad_edge=False, expand=True)
    for label in labels:
        table.add_column(Text(one_line(label), "bold"), ratio=1, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def rendered(*parts: RenderableType, terminal: bool, width: int = UNLIMITED) -> str:
    """What rich would print; strings are printed as they are, not as rich's markup.

    Args:
        parts: What to print, each from a new line.
        terminal: Whether styles are written as control codes.
        width: Characters per line.
    """
    from rich.console import Console

    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=terminal,
        color_system="standard" if terminal else None,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def column_blocks(
    widths: Sequence[float], limit: float, gap: float, keys: int
) -> Iterator[list[int]]:
    """Indices of the columns of each part of a table that is too wide; the parts have nearly as
    many columns each.

    Args:
        widths: Width of each column.
        limit: Width of the page.
        gap: Space between two columns.
        keys: Number of the first columns, which are in every part.
    """
    first, width_of_first = list(range(keys)), sum(widths[:keys]) + gap * (keys - 1)

    def parts(most: int) -> Iterator[list[int]]:
        block, taken = [*first], width_of_first
        for i, width in enumerate(widths[keys:], start=keys):
            is_full = taken + gap + width > limit or len(block) - keys == most
            if is_full and len(block) > keys:
                yield block
                block, taken = [*first], width_of_first
            block.append(i)
            taken += gap + width
        yield block

    n = len(widths) - keys
    return parts(math.ceil(n / len(list(parts(n)))))


def wrapped(text: str, width: int | None = None) -> str:
    """A sentence over as many lines as it needs; later lines are indented.

    Args:
        text: The sentence, of any origin.
        width: Characters of a line; by default at most 100 on a terminal, and 80 in a pipe.
    """
    if width is None and not sys.stdout.isatty():
        width = _PIPED_WIDTH
    elif width is None:
        width = min(shutil.get_terminal_size().columns, _WIDEST_SENTENCE)
    filled = textwrap.fill(one_line(text), width, subsequent_indent="  ", break_on_hyphens=False)
    return f"{filled}\n"
