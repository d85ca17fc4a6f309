"""Plots of traces: heat maps of one fact or of averages, and lines of averages.

Each map shades a single hue from light to dark, so that the order of values survives greyscale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from editkit.figures import NotebookFigure, plot_with_interval
from editkit.palette import series_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["TITLES", "heat_maps", "line_plots", "shortened"]

TITLES = {
    "state": "single state restored",
    "mlp": "MLP outputs restored",
    "attn": "attention outputs restored",
    "state-mlp-severed": "state restored, MLP severed",
    "state-attn-severed": "state restored, attention severed",
    "state-both-severed": "state restored, both severed",
    "neuron": "neurons",
}
"""Titles of panels by kind of site; other kinds are titled by their names."""

_SHADES = {"mlp": "Greens", "attn": "Reds"}
_ROW_INCHES = 0.24
_MAX_LABEL = 14  # characters of a token's label
_MAX_TICKS = 12
_MIN_RANGE = 1e-6  # of the colour scale of a map without any effect


def heat_maps(
    kinds: Mapping[str, Sequence[Sequence[float]]],
    rows: Sequence[str],
    title: str,
    notes: Sequence[str],
    *,
    unit: str = "effect",
    base: float = 0.0,
) -> Figure:
    """One map per kind of site: rows from top to bottom, layers from left to right.

    Args:
        kinds: Values by kind, (rows, layers).
        rows: Labels: tokens, or roles of tokens.
        title: First line of the title.
        notes: Further lines.
        unit: Label of the colour scale.
        base: Start of the colour scale, in white; lower values are white as well.
    """
    figure, panels = _panels(len(kinds), height=1.7 + _ROW_INCHES * len(rows))
    for panel, (kind, values) in zip(panels, kinds.items(), strict=True):
        shades = _SHADES.get(kind.partition("-")[0], "Purples")
        darkest = max(base + _MIN_RANGE, *(value for row in values for value in row))
        image = panel.pcolormesh(
            values, cmap=shades, vmin=base, vmax=darkest, edgecolors="face", linewidth=0.1
        )
        panel.invert_yaxis()
        panel.set_yticks([i + 0.5 for i in range(len(rows))], rows, fontsize=8)
        n_layers = len(values[0])
        ticks = range(0, n_layers, max(1, math.ceil(n_layers / _MAX_TICKS)))
        panel.set_xticks([i + 0.5 for i in ticks], [str(i) for i in ticks], fontsize=8)
        panel.set_xlabel("layer", fontsize=9)
        panel.set_title(TITLES.get(kind, kind), fontsize=10)
        bar = figure.colorbar(image, ax=panel, shrink=0.9)
        bar.ax.tick_params(labelsize=8)
        bar.set_label(unit, fontsize=8)
    figure.suptitle("\n".join([title, *notes]), fontsize=10)
    return figure


def line_plots(
    kinds: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]], title: str, note: str
) -> Figure:
    """One panel per kind of site: average effect by layer, a line with its interval per role.

    Args:
        kinds: By kind and role of a token: mean, lower and upper end for each layer.
        title: First line of the title.
        note: Second line.
    """
    figure, panels = _panels(len(kinds), height=3.6)
    for panel, (kind, roles) in zip(panels, kinds.items(), strict=True):
        for i, (role, layers) in enumerate(roles.items()):
            means, lows, highs = zip(*layers, strict=True)
            plot_with_interval(
                panel,
                range(len(layers)),
                means,
                lows,
                highs,
                style=series_style(i),
                label=role,
                linestyle="-",
                markersize=4,
            )
        panel.set_title(TITLES.get(kind, kind), fontsize=10)
        panel.set_xlabel("layer")
        panel.axhline(0, color="0.6", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("average indirect effect")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    figure.suptitle(f"{title}\n{note}", fontsize=10)
    return figure


def shortened(token: str) -> str:
    """A token's label, cut if it is long; the star of a subject's token stays."""
    if len(token) <= _MAX_LABEL:
        return token
    star = "*" if token.endswith("*") else ""
    return f"{token[: _MAX_LABEL - 2]}…{star}"


def _panels(n: int, *, height: float) -> tuple[Figure, list[Axes]]:
    figure = NotebookFigure(width=4.3 * n + 0.4, height=height + 0.5)
    return figure, list(figure.subplots(1, n, squeeze=False).flat)
