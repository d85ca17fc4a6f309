"""Figures: one set-up, and files that describe themselves and are identical if the numbers are.

No figure uses matplotlib's global state. Colours, markers and dashes come from
:mod:`editkit.palette`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from editkit.palette import Style
from editkit.storage.cache import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["NotebookFigure", "description_of", "plot_with_interval", "png_bytes", "save_figures"]

_MARGIN = 0.02  # inches around a PDF's content


class NotebookFigure(Figure):
    """An empty figure that notebooks display by themselves.

    Args:
        width: In inches.
        height: In inches.
        title: The title in its files' metadata; empty: the first line of its title.
        description: What it shows, for the metadata; empty: the lines below its title.
    """

    def __init__(
        self, *, width: float, height: float, title: str = "", description: str = ""
    ) -> None:
        super().__init__(figsize=(width, height), layout="constrained", dpi=130)
        FigureCanvasAgg(self)
        self.title, self.description = title, description

    def _repr_png_(self) -> bytes:
        return png_bytes(self)


def plot_with_interval(
    panel: Axes,
    x: Sequence[float],
    means: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    *,
    style: Style,
    label: str,
    alpha: float = 0.18,
    **options: Any,
) -> None:
    """Draw a line and shade the area of its interval.

    Args:
        panel: Where to draw.
        x: Positions along the horizontal axis.
        means: The line.
        lows: Lower ends of the intervals.
        highs: Upper ends.
        style: Colour, marker and dash.
        label: The line's entry in the legend.
        alpha: Opacity of the area.
        options: Arguments of matplotlib's ``plot`` that override the style.
    """
    options = {
        "color": style.color,
        "marker": style.marker,
        "linestyle": style.dash,
        "markersize": 4.5,
        **options,
    }
    panel.plot(x, means, label=label, **options)
    panel.fill_between(x, lows, highs, color=options["color"], alpha=alpha, linewidth=0)


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file, without metadata."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def description_of(figure: Figure, name: str = "") -> tuple[str, str]:
    """Title and description of a figure, as its files' metadata has them.

    A :class:`NotebookFigure` may have its own. Otherwise, the title is the first line of the
    figure's title, or the title of its only panel, or ``name``, and the description is the lines
    below the title.
    """
    own = (figure.title, figure.description) if isinstance(figure, NotebookFigure) else ("", "")
    heading = figure.get_suptitle()
    if not heading and len(figure.axes) == 1:
        heading = figure.axes[0].get_title()
    lines = [line.strip() for line in heading.splitlines() if line.strip()]
    title, *further = lines or [name]
    return own[0] or title, own[1] or "; ".join(further)


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write every figure as ``NAME.png``, ``NAME.svg`` and ``NAME.pdf``, and return the files.

    The PDF is for papers: TrueType fonts are embedded, text can be selected, and no margin is left.
    Title and description (:func:`description_of`) are Dublin Core's in the SVG, ``Title`` and
    ``Subject`` in the PDF, and text chunks in the PNG.

    Equal numbers give equal bytes: the files hold no dates, versions or random ids.
    """
    files = []
    for name, figure in figures.items():
        title, description = description_of(figure, name)
        words = {"Title": title} | ({"Description": description} if description else {})
        nothing = dict.fromkeys(("Creator", "Producer", "CreationDate"))
        forms: dict[str, dict[str, Any]] = {
            "png": {"metadata": {"Software": None, **words}},
            "svg": {"metadata": {"Date": None, "Creator": None, **words}},
            "pdf": {
                "metadata": {"Title": title, "Subject": description, **nothing},
                "bbox_inches": "tight",
                "pad_inches": _MARGIN,
            },
        }
        with rc_context({"svg.hashsalt": name, "svg.fonttype": "path", "pdf.fonttype": 42}):
            for form, options in forms.items():
                content = io.BytesIO()
                figure.savefig(content, format=form, **options)
                files.append(folder / f"{name}.{form}")
                write_atomically(files[-1], content.getvalue())
    return files
