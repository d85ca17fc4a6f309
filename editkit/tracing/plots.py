"""Pictures of localizations: heat maps of one fact, heat maps and lines of averages.

Figures are made without matplotlib's global state. Colours are of one hue, from light to dark, so
that every reader can tell their order, in print, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from editkit.tracing.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["TITLES", "average_lines", "average_maps", "heat_maps"]

TITLES = {
    "state": "single state restored",
    "mlp": "MLP outputs restored",
    "attn": "attention outputs restored",
    "state-mlp-severed": "state restored, MLP severed",
    "state-attn-severed": "state restored, attention severed",
    "state-both-severed": "state restored, both severed",
    "neuron": "neurons",
}
_SHADES = {"mlp": "Greens", "attn": "Reds"}
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A6D00", "#56B4E9")
_MARKERS = "osD^vP"
_ROW_INCHES = 0.24
_LONGEST = 14  # letters of a token's label
_MOST_TICKS = 12
_LEAST_SCALE = 1e-6  # of a map without any effect


def heat_maps(trace: Trace) -> Figure:
    """One map for each kind: tokens from top to bottom, layers from left to right.

    Where there is a corrupted run, colours are the probability of the answer, from what the
    corrupted run leaves of it, which restoring nothing gives; elsewhere they are effects.
    """
    found = trace.maps[0]
    baselines = found.baselines
    words = [f'"{trace.fact.prompt}" -> "{trace.answer.strip()}"']
    if "corrupted" in baselines:
        words.append(
            f"p = {baselines['clean']:.3f} clean, {baselines['corrupted']:.3f} with a corrupted "
            "subject (*)"
        )
    elif "clean" in baselines:
        words.append(f"p = {baselines['clean']:.3f}; * marks the subject")
    corrupted = baselines.get("corrupted")
    kinds = {
        each.kind: [[(corrupted or 0.0) + effect for effect in row] for row in each.scores]
        for each in trace.maps
    }
    tokens = [_label(token) for token in trace.tokens]
    unit = "effect" if corrupted is None else f"p({_label(trace.answer.strip())})"
    return _maps(kinds, tokens, f"{trace.model}, {trace.locator}", words, unit, corrupted or 0.0)


def _label(token: str) -> str:
    """A token, shortened where it is long; the subject's star is kept."""
    if len(token) <= _LONGEST:
        return token
    star = "*" if token.endswith("*") else ""
    return f"{token[: _LONGEST - 2]}…{star}"


def average_maps(
    kinds: Mapping[str, Sequence[Sequence[float]]], roles: Sequence[str], title: str, note: str
) -> Figure:
    """One map for each kind, roles of tokens from top to bottom.

    Args:
        kinds: Average effects by kind, (roles, layers).
        roles: Names of the roles.
        title: First line of the title.
        note: Second line.
    """
    return _maps(kinds, roles, title, [note], "effect", 0.0)


def average_lines(
    kinds: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]], title: str, note: str
) -> Figure:
    """One panel for each kind: average effect by layer, one line with a 95% area for each role.

    Args:
        kinds: By kind and role: mean, lower and upper bound for each layer.
        title: First line of the title.
        note: Second line.
    """
    figure, panels = _figure(len(kinds), height=3.6)
    for panel, (kind, roles) in zip(panels, kinds.items(), strict=True):
        for i, (role, layers) in enumerate(roles.items()):
            x = range(len(layers))
            means, lows, highs = zip(*layers, strict=True)
            color = _COLORS[i % len(_COLORS)]
            marker = _MARKERS[i % len(_MARKERS)]
            panel.plot(x, means, color=color, marker=marker, markersize=4, label=role)
            panel.fill_between(x, lows, highs, color=color, alpha=0.18, linewidth=0)
        panel.set_title(TITLES.get(kind, kind), fontsize=10)
        panel.set_xlabel("layer")
        panel.axhline(0, color="0.6", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("average indirect effect")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    figure.suptitle(f"{title}\n{note}", fontsize=10)
    return figure


def _maps(
    kinds: Mapping[str, Sequence[Sequence[float]]],
    rows: Sequence[str],
    title: str,
    words: Sequence[str],
    unit: str,
    white: float,
) -> Figure:
    """Heat maps whose colours begin at ``white``; what lies below it is white, too."""
    figure, panels = _figure(len(kinds), height=1.7 + _ROW_INCHES * len(rows))
    for panel, (kind, scores) in zip(panels, kinds.items(), strict=True):
        n_layers = len(scores[0])
        shades = _SHADES.get(kind.partition("-")[0], "Purples")
        darkest = max(white + _LEAST_SCALE, *(value for row in scores for value in row))
        image = panel.pcolormesh(
            scores, cmap=shades, vmin=white, vmax=darkest, edgecolors="face", linewidth=0.1
        )
        panel.invert_yaxis()
        panel.set_yticks([i + 0.5 for i in range(len(rows))], rows, fontsize=8)
        step = max(1, math.ceil(n_layers / _MOST_TICKS))
        ticks = range(0, n_layers, step)
        panel.set_xticks([i + 0.5 for i in ticks], [str(i) for i in ticks], fontsize=8)
        panel.set_xlabel("layer", fontsize=9)
        panel.set_title(TITLES.get(kind, kind), fontsize=10)
        bar = figure.colorbar(image, ax=panel, shrink=0.9)
        bar.ax.tick_params(labelsize=8)
        bar.set_label(unit, fontsize=8)
    figure.suptitle("\n".join([title, *words]), fontsize=10)
    return figure


def _figure(panels: int, *, height: float) -> tuple[Figure, list[Axes]]:
    from editkit.tracing.shown_figure import ShownFigure

    figure = ShownFigure(width=4.3 * panels + 0.4, height=height + 0.5)
    axes = figure.subplots(1, panels, squeeze=False)
    return figure, list(axes.flat)
