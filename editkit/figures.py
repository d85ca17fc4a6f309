"""Figures: one palette, one set-up, and files that are identical if the numbers are.

No figure uses matplotlib's global state. Lines differ in marker and dash as well as in colour, so
that they can be told apart in print.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from editkit.storage.cache import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLORS", "MARKERS", "NotebookFigure", "plot_with_interval", "png_bytes", "save_figures"]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A6D00", "#56B4E9", "#5D4BA8", "#555555")
MARKERS = "osD^vPX*"
_DASHES = ("-", "--", "-.", ":")


class NotebookFigure(Figure):
    """An empty figure, ``width`` by ``height`` inches, that notebooks display by themselves."""

    def __init__(self, *, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), layout="constrained", dpi=130)
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        return png_bytes(self)


def plot_with_interval(
    panel: Axes,
    x: Sequence[float],
    means: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    *,
    number: int,
    label: str,
    alpha: float = 0.18,
    **style: Any,
) -> None:
    """Draw a line and shade the area of its interval.

    Args:
        panel: Where to draw.
        x: Positions along the horizontal axis.
        means: The line.
        lows: Lower ends of the intervals.
        highs: Upper ends.
        number: Number of the line in its panel, from 0; picks colour, marker and dash.
        label: The line's entry in the legend.
        alpha: Opacity of the area.
        style: Arguments of matplotlib's ``plot`` in place of the picked ones.
    """
    style = {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": _DASHES[number % len(_DASHES)],
        "markersize": 4.5,
        **style,
    }
    panel.plot(x, means, label=label, **style)
    panel.fill_between(x, lows, highs, color=style["color"], alpha=alpha, linewidth=0)


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write every figure as ``NAME.png`` and ``NAME.svg``, and return the files.

    Equal numbers give equal bytes: the files hold no dates, versions or random ids.
    """
    files = []
    for name, figure in figures.items():
        with rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
            for form, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                content = io.BytesIO()
                figure.savefig(content, format=form, metadata=metadata)
                files.append(folder / f"{name}.{form}")
                write_atomically(files[-1], content.getvalue())
    return files
