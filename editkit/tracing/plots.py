"""Plots of traces: heat maps of one fact or of averages, and lines of averages.

Each map shades a single hue from light to dark, so that the order of values survives greyscale.
Titles and axes name what is restored, as in the figures of Meng et al. (2022).
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from editkit.figures import NotebookFigure, plot_with_interval
from editkit.palette import series_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["TITLES", "HeatMap", "draw_map", "heat_maps", "line_plots", "restored", "shortened"]

TITLES = {
    "state": "single state restored",
    "mlp": "MLP outputs restored",
    "attn": "attention outputs restored",
    "state-mlp-severed": "state restored, MLP severed",
    "state-attn-severed": "state restored, attention severed",
    "state-both-severed": "state restored, both severed",
    "neuron": "neurons",
}
"""Names of kinds of site in legends; other kinds have their own names."""

_RESTORED = {
    "state": "state",
    "mlp": "MLP",
    "attn": "attention",
    "state-mlp-severed": "state, MLP severed",
    "state-attn-severed": "state, attention severed",
    "state-both-severed": "state, both severed",
}
_SHADES = {"mlp": "Greens", "attn": "Reds"}
_PANEL_INCHES, _ROW_INCHES = 4.3, 0.24
_CHARACTERS_PER_INCH = 12.5  # of a figure's title
_MAX_LABEL = 14  # characters of a token's label
_MAX_TICKS = 12
_VISIBLE = 0.03  # share of a colour scale
_MIN_RANGE = 1e-6  # of the colour scale of a map without any effect


def restored(kind: str, window: int | None = None) -> tuple[str, str]:
    """What a restored run of a kind of site restores, and the label of the axis of its layers.

    Args:
        kind: The kind.
        window: How many layers are restored together; None for a single one.

    Returns:
        ``"MLP in 10 layers"`` and ``"center of interval of 10 restored MLP layers"``, or
        ``"state"`` and ``"single restored layer"``.
    """
    name = _RESTORED.get(kind, kind)
    part = f"{name} " if kind in _SHADES else ""
    if window is None or window == 1:
        return name, f"single restored {part}layer"
    return f"{name} in {window} layers", f"center of interval of {window} restored {part}layers"


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """A panel: rows from top to bottom, layers from left to right.

    Attributes:
        kind: Kind of site; picks the hue.
        values: (rows, layers)
        title: Its title.
        axis: Label of the axis of layers.
        traced: Which rows have values; the others are grey. No entries: all of them.
    """

    kind: str
    values: Sequence[Sequence[float]]
    title: str = ""
    axis: str = "layer"
    traced: Sequence[bool] = ()

    @property
    def highest(self) -> float:
        """The largest value of the traced rows."""
        traced = self.traced or [True] * len(self.values)
        rows = [row for row, shown in zip(self.values, traced, strict=True) if shown]
        return max((value for row in rows for value in row), default=0.0)


def heat_maps(
    maps: Sequence[HeatMap],
    rows: Sequence[str],
    title: str,
    notes: Sequence[str],
    *,
    unit: str = "effect",
    base: float = 0.0,
    shared_scale: bool = True,
) -> Figure:
    """Panels side by side, with one colour scale for all of them.

    Args:
        maps: The panels.
        rows: Labels: tokens, or roles of tokens.
        title: First line of the figure's title, and the title of its files.
        notes: Further lines.
        unit: Label of the colour scale.
        base: Start of the colour scale, in white; lower values are white as well.
        shared_scale: Whether all panels have the same scale; else each has its own.
    """
    width = _PANEL_INCHES * len(maps) + 0.4
    characters = int(width * _CHARACTERS_PER_INCH)
    heading = [line for text in (title, *notes) for line in textwrap.wrap(text, characters)]
    height = 1.9 + _ROW_INCHES * len(rows) + 0.17 * len(heading)
    figure = NotebookFigure(width=width, height=height, title=title, description=" ".join(notes))
    panels = figure.subplots(1, len(maps), squeeze=False).flat
    shared = shared_scale and len(maps) > 1
    highest = max(each.highest for each in maps)
    for panel, each in zip(panels, maps, strict=True):
        draw_map(
            panel,
            each,
            rows,
            unit=f"{unit}, same scale in all panels" if shared else unit,
            base=base,
            highest=highest if shared else each.highest,
        )
    figure.suptitle("\n".join(heading), fontsize=10, parse_math=False)
    return figure


def draw_map(
    panel: Axes,
    each: HeatMap,
    rows: Sequence[str],
    *,
    unit: str,
    base: float,
    highest: float,
) -> None:
    """Draw a heat map and its colour scale into a panel.

    Args:
        panel: Where to draw.
        each: The map.
        rows: Labels of its rows.
        unit: Label of the colour scale.
        base: Start of the colour scale.
        highest: Its end. The scale has an arrow at its start if there are lower values.
    """
    shades = _SHADES.get(each.kind.partition("-")[0], "Purples")
    traced = each.traced or [True] * len(rows)
    values = [
        [value if shown else math.nan for value in row]
        for row, shown in zip(each.values, traced, strict=True)
    ]
    panel.set_facecolor("0.88")
    image = panel.pcolormesh(
        values,
        cmap=shades,
        vmin=base,
        vmax=max(base + _MIN_RANGE, highest),
        edgecolors="face",
        linewidth=0.1,
    )
    panel.invert_yaxis()
    panel.set_yticks([i + 0.5 for i in range(len(rows))], rows, fontsize=8, parse_math=False)
    n_layers = len(values[0])
    ticks = range(0, n_layers, max(1, math.ceil(n_layers / _MAX_TICKS)))
    panel.set_xticks([i + 0.5 for i in ticks], [str(i) for i in ticks], fontsize=8)
    panel.set_xlabel(each.axis, fontsize=8.5)
    panel.set_title(each.title, fontsize=9.5)
    lowest = min(value for row in each.values for value in row)
    lower = base - lowest > _VISIBLE * (highest - base)
    bar = panel.figure.colorbar(image, ax=panel, shrink=0.9, extend="min" if lower else "neither")
    bar.ax.tick_params(labelsize=8)
    bar.set_label(unit, fontsize=8, parse_math=False)


def line_plots(
    kinds: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]],
    labels: Mapping[str, tuple[str, str]],
    title: str,
    notes: Sequence[str],
    *,
    unit: str = "average indirect effect",
) -> Figure:
    """One panel per kind of site: average effect by layer, a line with its interval per role.

    Args:
        kinds: By kind and role of a token: mean, lower and upper end for each layer.
        labels: By kind: title of its panel, and label of its axis of layers.
        title: First line of the figure's title, and the title of its files.
        notes: Further lines.
        unit: Label of the axis of effects.
    """
    figure = NotebookFigure(
        width=_PANEL_INCHES * len(kinds) + 0.4,
        height=4.1,
        title=title,
        description=" ".join(notes),
    )
    panels = list(figure.subplots(1, len(kinds), squeeze=False, sharey=True).flat)
    for panel, (kind, roles) in zip(panels, kinds.items(), strict=True):
        for i, (role, layers) in enumerate(roles.items()):
            means, lows, highs = zip(*layers, strict=True)
            plot_with_interval(
                panel,
                range(len(layers)),
                means,
                lows,
                highs,
                style=dataclasses.replace(series_style(i), dash="-"),
                label=role,
                markersize=4,
            )
        panel.set_title(labels[kind][0], fontsize=10)
        panel.set_xlabel(labels[kind][1], fontsize=9)
        panel.axhline(0, color="0.6", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelleft=True)
    panels[0].set_ylabel(f"{unit}, with 95% intervals", fontsize=9)
    handles, roles_shown = panels[0].get_legend_handles_labels()
    columns = min(3 * len(panels), len(roles_shown))
    figure.legend(handles, roles_shown, loc="outside lower center", ncols=columns)
    figure.suptitle("\n".join([title, *notes]), fontsize=10, parse_math=False)
    return figure


def shortened(token: str) -> str:
    """A token's label, cut if it is long; the star of a subject's token stays."""
    if len(token) <= _MAX_LABEL:
        return token
    star = "*" if token.endswith("*") else ""
    return f"{token[: _MAX_LABEL - 2]}…{star}"
