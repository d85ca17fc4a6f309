"""What figures of scores share: a page's width, panels, titles, legends and styles of lines."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit.data_types import Score
from editkit.editing.outcomes import BASELINE
from editkit.palette import COLORS, GREY, Style, series_style
from editkit.registry.styles import styles_of
from editkit.report.sections import Section
from editkit_benchmarks.experiments.spec import FigureSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "HEADING",
    "SMALL",
    "TEXT",
    "about_run",
    "add_heading",
    "add_legend",
    "columns_of",
    "legend_rows",
    "panel_title",
    "set_up_panel",
    "styles_of_lines",
]

SMALL, TEXT, HEADING = 7.0, 8.0, 9.0
"""Font sizes in points."""


def styles_of_lines(lines: Mapping[str, str]) -> dict[str, Style]:
    """A style for each line of a figure.

    Args:
        lines: Labels, in the order in which they are drawn, with the editor of each.

    Returns:
        The editor's own style, if it has one line; lines of an editor under several settings have
        styles of series, in colours that no editor of the figure has. What is not edited is grey.
    """
    n_lines = Counter(lines.values())
    own = styles_of({label: each for label, each in lines.items() if n_lines[each] == 1})
    own |= {label: Style(GREY, "o") for label, each in lines.items() if each == BASELINE}
    used = {style.color for style in own.values()}
    if used >= {*COLORS.values()}:
        used = set()
    series = (style for style in map(series_style, itertools.count()) if style.color not in used)
    return {label: own[label] if label in own else next(series) for label in lines}


def columns_of(n_panels: int, width: float, least: float) -> int:
    """How many panels fit into a row, without a last row of its own for a single panel.

    Args:
        n_panels: Number of panels.
        width: Width of the row in inches.
        least: Least width of a panel in inches.
    """
    most = max(1, min(n_panels, int(width / least + 1e-9)))
    rows = -(-n_panels // most)
    return -(-n_panels // rows)


def panel_title(score: Score) -> str:
    """``efficacy (ES)``; a label that is a word on its own; the key if there is no label."""
    if not score.label.isupper():
        return score.label.lower() or score.key
    metric = score.key.partition("/")[0].replace("_", " ")
    return f"{metric} ({score.label})"


def set_up_panel(panel: Axes, title: str, number: int | None, *, axis: str = "y") -> None:
    """Title, font sizes and grid lines of a panel.

    Args:
        panel: The panel.
        title: Its title.
        number: Its place in the figure, for a letter before the title; None: no letter.
        axis: The axis with grid lines.
    """
    letter = "" if number is None else f"({chr(ord('a') + number)}) "
    panel.set_title(f"{letter}{title}", fontsize=TEXT, loc="left")
    panel.tick_params(labelsize=SMALL, length=2.5, pad=2)
    panel.xaxis.label.set_fontsize(TEXT)
    panel.yaxis.label.set_fontsize(TEXT)
    grid: Any = panel.grid
    grid(axis=axis, color="0.88", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def about_run(section: Section) -> str:
    """``50 random records of atlas, on atlas``."""
    run = section.run
    random = "random " if run.dataset.get("sample") is not None else ""
    dataset = run.dataset
    return f"{dataset['n_records']} {random}records of {dataset['name']}, on {run.model['name']}"


def add_heading(figure: Figure, spec: FigureSpec, about: str) -> None:
    """The title, and below it what the numbers are of."""
    figure.suptitle(f"{spec.title or spec.name}\n{about}", fontsize=HEADING)


def legend_rows(labels: Sequence[str], width: float) -> int:
    """How many rows the legend of a figure of this width in inches has."""
    return -(-len(labels) // _legend_columns(labels, width)) if labels else 0


def _legend_columns(labels: Sequence[str], width: float) -> int:
    entry = 0.45 + 0.055 * max(map(len, labels))  # inches
    return columns_of(len(labels), width - 0.2, entry)


def add_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend below the panels, in as many columns as fit."""
    if not labels:
        return
    columns = _legend_columns(labels, figure.get_figwidth())
    figure.legend(
        list(handles),
        list(labels),
        loc="outside lower center",
        ncols=columns,
        fontsize=TEXT,
        frameon=False,
        handlelength=2.6,
        columnspacing=1.2,
    )
