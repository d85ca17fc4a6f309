"""Lists and sentences for terminals and pipes; rich does the layout and the colours.

On a terminal, lists wrap their last column. Piped output has no control codes and one line per row,
so it can be searched and cut.
"""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from editkit.safe_text import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

__all__ = ["GAP", "UNLIMITED", "aligned", "columns", "rendered", "wrapped"]

_PIPED_WIDTH = 80  # of sentences
_WIDEST_SENTENCE = 100
UNLIMITED = 1_000_000
GAP = "  "


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows with aligned columns. On a terminal, the last column wraps.

    Args:
        rows: Texts of any origin, the same number in each row.
    """
    from rich.table import Table as Grid
    from rich.text import Text

    table = Grid(box=None, show_header=False, pad_edge=False, padding=(0, len(GAP), 0, 0))
    for i in range(len(rows[0])):
        table.add_column(no_wrap=i < len(rows[0]) - 1, overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(text)) for text in row))
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else UNLIMITED
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


def wrapped(text: str) -> str:
    """A sentence over as many lines as it needs; later lines are indented."""
    width = _PIPED_WIDTH
    if sys.stdout.isatty():
        width = min(shutil.get_terminal_size().columns, _WIDEST_SENTENCE)
    filled = textwrap.fill(one_line(text), width, subsequent_indent="  ", break_on_hyphens=False)
    return f"{filled}\n"
