"""Figures of the traces of an experiment: average effects, alone or beside a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from editkit.benchmark.aggregate import Estimate
from editkit.figures import NotebookFigure, plot_with_interval
from editkit.palette import Style, series_style
from editkit.report.sections import Section
from editkit.tracing.plots import TITLES
from editkit_benchmarks.experiments.score_figures import (
    plot_estimates,
    scale_to_percent,
    scores_of,
    use_whole_ticks,
)
from editkit_benchmarks.experiments.spec import FigureSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from editkit_plugins.tracing.averages import AverageTrace

_EFFECT = "average indirect effect"

Legend = tuple[list[Any], list[str]]
"""Handles and labels."""


def draw_effects(spec: FigureSpec, averages: Sequence[AverageTrace]) -> Figure:
    """Draw ``effects``: average effects by layer.

    With ``series: setting``, there is a line per average, a column of panels per kind of site and a
    row per role. With ``series: kind``, only the first average is drawn: a line per kind of site
    and a panel per role.

    Args:
        spec: What to draw.
        averages: The averages.
    """
    kinds = list(dict.fromkeys(kind for average in averages for kind in average.effects))
    if spec.series == "kind":
        averages = averages[:1]
        figure, [panels] = _grid(1, len(spec.roles), shared_scale=False)
        for panel, role in zip(panels, spec.roles, strict=True):
            _kind_lines(panel, averages[0], role)
        panels[0].set_ylabel(_EFFECT)
        _finish(figure, spec, averages, panels[0].get_legend_handles_labels())
        return figure
    figure, grid = _grid(len(spec.roles), len(kinds), shared_scale=True)
    alpha = 0.3 / max(2, len(averages))
    for row, role in zip(grid, spec.roles, strict=True):
        for panel, kind in zip(row, kinds, strict=True):
            for i, average in enumerate(averages):
                label = average.setting or average.facts
                _effect_line(
                    panel, average, kind, role, style=series_style(i), label=label, alpha=alpha
                )
            _frame(panel, TITLES.get(kind, kind))
        row[0].set_ylabel(f"{_EFFECT}\n{role}")
    _finish(figure, spec, averages, grid[0][0].get_legend_handles_labels())
    return figure


def draw_effects_and_score(
    spec: FigureSpec, averages: Sequence[AverageTrace], section: Section
) -> Figure:
    """Draw ``effects-and-score``: effects by layer, and a score by edited layer on a second axis.

    Args:
        spec: What to draw: one score, and a panel per role.
        averages: The averages; only the first is drawn.
        section: The run; cells without a layer are left out.
    """
    [key] = spec.scores
    [score] = [each for each in scores_of(section) if each.key == key]
    points: list[tuple[float, Estimate]] = []
    editors: dict[str, None] = {}
    for cell, estimates in zip(section.run.cells, section.estimates, strict=True):
        if "layer" in cell.config:
            editors[cell.editor] = None
            if key in estimates:
                points.append((int(cell.config["layer"]), estimates[key]))
    name = score.label or score.key
    figure = NotebookFigure(width=5.4 * len(spec.roles) + 1, height=4.2)
    panels = figure.subplots(1, len(spec.roles), squeeze=False).flat
    legend: Legend = [], []
    for panel, role in zip(panels, spec.roles, strict=True):
        _kind_lines(panel, averages[0], role)
        panel.set_ylabel(_EFFECT)
        right = panel.twinx()
        plot_estimates(
            right,
            score,
            points,
            style=Style("#222222", "*", ":"),
            label=f"{name} of {', '.join(editors)}",
            alpha=0.1,
            markersize=9,
        )
        scale_to_percent(right, score)
        right.set_ylabel(f"{name} by edited layer")
        right.spines[["top"]].set_visible(False)
        (handles, labels), (more_handles, more_labels) = (
            axes.get_legend_handles_labels() for axes in (panel, right)
        )
        legend = handles + more_handles, labels + more_labels
    _finish(figure, spec, averages[:1], legend)
    return figure


def _grid(rows: int, columns: int, *, shared_scale: bool) -> tuple[Figure, list[list[Axes]]]:
    figure = NotebookFigure(width=4.2 * columns, height=2.9 * rows + 1)
    sharey: Literal["row", "none"] = "row" if shared_scale else "none"
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey).tolist()


def _kind_lines(panel: Axes, average: AverageTrace, role: str) -> None:
    for i, kind in enumerate(average.effects):
        _effect_line(
            panel,
            average,
            kind,
            role,
            style=series_style(i),
            label=TITLES.get(kind, kind),
            alpha=0.15,
        )
    _frame(panel, role)


def _effect_line(panel: Axes, average: AverageTrace, kind: str, role: str, **options: Any) -> None:
    layers = average.effects.get(kind, {}).get(role)
    if layers is None:
        return
    means, lows, highs = zip(*((each.mean, *each.interval) for each in layers), strict=True)
    plot_with_interval(panel, range(len(layers)), means, lows, highs, **options)


def _frame(panel: Axes, title: str) -> None:
    panel.set_title(title, fontsize=11)
    panel.set_xlabel("layer")
    use_whole_ticks(panel)
    panel.axhline(0, color="0.6", linewidth=0.6)
    panel.grid(axis="y", color="0.88", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top"]].set_visible(False)


def _finish(
    figure: Figure, spec: FigureSpec, averages: Sequence[AverageTrace], legend: Legend
) -> None:
    """Add the title, and a legend with as many columns as fit."""
    handles, labels = legend
    entry_inches = 0.6 + 0.085 * max(map(len, labels), default=1)
    columns = max(1, min(len(labels), int(figure.get_figwidth() / entry_inches)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    known = sorted({average.known for average in averages})
    count = f"{known[0]} to {known[-1]}" if len(known) > 1 else str(known[0])
    about = f"{count} facts of {averages[0].facts} that {averages[0].model} knows"
    figure.suptitle(f"{spec.title or spec.name}\n{about}", fontsize=11)
