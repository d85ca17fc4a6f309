"""Figures of an experiment's traces: settings side by side, and effects beside a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from editkit.report import Section
from editkit.tracing.plots import TITLES
from editkit.tracing.shown_figure import ShownFigure
from editkit_benchmarks.experiments.figures import COLORS, MARKERS, STYLES, keep_percent
from editkit_benchmarks.experiments.spec import FigureSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from editkit_plugins.tracing.shown import Shown

_PANEL = 4.2, 2.9
_LEFT, _RIGHT = "average indirect effect", "#222222"


def draw_effects(spec: FigureSpec, traced: Sequence[Shown]) -> Figure:
    """Average effects by layer, a line for each setting, or for each kind of site.

    Of settings there is a column of panels for each kind of site, and a row for each role of a
    token; of kinds, a panel for each role, of the first setting.

    Args:
        spec: What to draw.
        traced: The averages.
    """
    kinds = list(dict.fromkeys(kind for shown in traced for kind in shown.study.kinds))
    if spec.series == "kind":
        traced = traced[:1]
        figure, [panels] = _figure(1, len(spec.roles), shared=False)
        for panel, role in zip(panels, spec.roles, strict=True):
            for i, kind in enumerate(kinds):
                _line(panel, traced[0], kind, role, i, TITLES.get(kind, kind))
            _frame(panel, role)
        panels[0].set_ylabel(_LEFT)
        _finish(figure, spec, traced, panels[0].get_legend_handles_labels())
        return figure
    figure, grid = _figure(len(spec.roles), len(kinds), shared=True)
    for row, role in zip(grid, spec.roles, strict=True):
        for panel, kind in zip(row, kinds, strict=True):
            for i, shown in enumerate(traced):
                label = shown.setting or shown.facts
                _line(panel, shown, kind, role, i, label, alpha=0.3 / max(2, len(traced)))
            _frame(panel, TITLES.get(kind, kind))
        row[0].set_ylabel(f"{_LEFT}\n{role}")
    _finish(figure, spec, traced, grid[0][0].get_legend_handles_labels())
    return figure


def draw_effects_and_score(spec: FigureSpec, traced: Sequence[Shown], section: Section) -> Figure:
    """Effects of each kind of site by layer, and on a scale of its own a score by edited layer.

    Args:
        spec: What to draw; one score, a panel for each role of a token.
        traced: The averages; the first one is drawn.
        section: The run, of which cells with a layer are drawn.
    """
    [key] = spec.scores
    figure = ShownFigure(width=5.4 * len(spec.roles) + 1, height=4.2)
    panels = figure.subplots(1, len(spec.roles), squeeze=False).flat
    handles: list[Any] = []
    labels: list[str] = []
    for panel, role in zip(panels, spec.roles, strict=True):
        for i, kind in enumerate(traced[0].study.kinds):
            _line(panel, traced[0], kind, role, i, TITLES.get(kind, kind))
        _frame(panel, role)
        panel.set_ylabel(_LEFT)
        scores = panel.twinx()
        label = _scores(scores, section, key)
        scores.set_ylabel(label)
        scores.spines[["top"]].set_visible(False)
        both = [axes.get_legend_handles_labels() for axes in (panel, scores)]
        handles, labels = both[0][0] + both[1][0], both[0][1] + both[1][1]
    _finish(figure, spec, traced[:1], (handles, labels))
    return figure


def _figure(rows: int, columns: int, *, shared: bool) -> tuple[Figure, list[list[Axes]]]:
    """Panels, whose scale is shared within a row or not at all."""
    figure = ShownFigure(width=_PANEL[0] * columns, height=_PANEL[1] * rows + 1)
    sharey: Literal["row", "none"] = "row" if shared else "none"
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey).tolist()


def _scores(panel: Axes, section: Section, key: str) -> str:
    """The score's mean by edited layer, with its 95% area; what the axis is called."""
    from editkit.benchmark.aggregate import SUMMARY

    [score] = [each for each in (SUMMARY, *section.run.scores) if each.key == key]
    points = sorted(
        (
            (int(cell.config["layer"]), found[key])
            for cell, found in zip(section.run.cells, section.estimates, strict=True)
            if key in found and "layer" in cell.config
        ),
        key=lambda point: point[0],
    )
    name = score.label or score.key
    editors = dict.fromkeys(c.editor for c in section.run.cells if "layer" in c.config)
    layers = [layer for layer, _ in points]
    low = [score.scale * found.ci_low for _, found in points]
    high = [score.scale * found.ci_high for _, found in points]
    panel.plot(
        layers,
        [score.scale * found.mean for _, found in points],
        color=_RIGHT,
        marker="*",
        markersize=9,
        linestyle=":",
        label=f"{name} of {', '.join(editors)}",
    )
    panel.fill_between(layers, low, high, color=_RIGHT, alpha=0.1, linewidth=0)
    keep_percent(panel, score)
    return f"{name} by edited layer"


def _line(
    panel: Axes, shown: Shown, kind: str, role: str, i: int, label: str, alpha: float = 0.15
) -> None:
    layers = shown.study.kinds.get(kind, {}).get(role)
    if layers is None:
        return
    color = COLORS[i % len(COLORS)]
    panel.plot(
        range(len(layers)),
        [each.mean for each in layers],
        color=color,
        marker=MARKERS[i % len(MARKERS)],
        linestyle=STYLES[i % len(STYLES)],
        markersize=4.5,
        label=label,
    )
    lows, highs = [each.low for each in layers], [each.high for each in layers]
    panel.fill_between(range(len(layers)), lows, highs, color=color, alpha=alpha, linewidth=0)


def _frame(panel: Axes, title: str) -> None:
    panel.set_title(title, fontsize=11)
    panel.set_xlabel("layer")
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.axhline(0, color="0.6", linewidth=0.6)
    panel.grid(axis="y", color="0.88", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top"]].set_visible(False)


def _columns(figure: Figure, labels: Sequence[str]) -> int:
    """How many entries of a legend fit side by side."""
    entry = 0.6 + 0.085 * max(map(len, labels), default=1)  # inches
    return max(1, min(len(labels), int(figure.get_figwidth() / entry)))


def _finish(
    figure: Figure, spec: FigureSpec, traced: Sequence[Shown], legend: tuple[list[Any], list[str]]
) -> None:
    handles, labels = legend
    figure.legend(handles, labels, loc="outside lower center", ncols=_columns(figure, labels))
    first = traced[0]
    known = sorted({shown.study.known for shown in traced})
    count = f"{known[0]} to {known[-1]}" if len(known) > 1 else str(known[0])
    about = f"{count} facts of {first.facts} that the model knows, on {first.model}"
    figure.suptitle(f"{spec.title or spec.name}\n{about}", fontsize=11)
