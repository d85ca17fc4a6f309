"""Figures of the traces of an experiment: average effects, alone or beside a score, and maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from editkit.benchmark.aggregate import Estimate
from editkit.figures import NotebookFigure, plot_with_interval
from editkit.palette import Style, series_style
from editkit.report.sections import Section
from editkit.tracing.plots import TITLES, HeatMap, draw_map
from editkit_benchmarks.experiments.layout import (
    HEADING,
    TEXT,
    add_heading,
    add_legend,
    set_up_panel,
)
from editkit_benchmarks.experiments.score_figures import (
    plot_estimates,
    scale_to_percent,
    scores_of,
    use_whole_ticks,
)
from editkit_benchmarks.experiments.spec import FigureSpec
from editkit_plugins.tracing.averages import ROLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from editkit_benchmarks.experiments.tracing import ExampleTrace, Traces
    from editkit_plugins.tracing.averages import AverageTrace

_EFFECT = "average indirect effect"
_HATCHES = ("", "////", "....", "xxxx")  # tell bars apart in print
_MAP_INCHES = 3.1
_MOST_MAPS = 3  # in a row
_BETWEEN = 0.06  # space between maps, as a share of their width

Legend = tuple[list[Any], list[str]]
"""Handles and labels."""


def draw_traces(spec: FigureSpec, traces: Traces) -> Figure:
    """Draw a figure that shows no scores."""
    if spec.kind == "fact-maps":
        return draw_fact_maps(spec, traces.examples)
    draw = {
        "effects": draw_effects,
        "effect-bars": draw_effect_bars,
        "average-maps": draw_average_maps,
    }
    return draw[spec.kind](spec, traces.averages)


def draw_effects(spec: FigureSpec, averages: Sequence[AverageTrace]) -> Figure:
    """Draw ``effects``: average effects by layer.

    With ``series: setting``, there is a line per average, a column of panels per kind of site and a
    row per role. With ``series: kind``, only the first average is drawn: a line per kind of site
    and a panel per role.

    Args:
        spec: What to draw.
        averages: The averages.
    """
    kinds = _kinds_of(spec, averages)
    if spec.series == "kind":
        averages = averages[:1]
        figure, [panels] = _grid(1, len(spec.roles), shared_scale=False)
        for panel, role in zip(panels, spec.roles, strict=True):
            _kind_lines(panel, averages[0], role, kinds)
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


def draw_effect_bars(spec: FigureSpec, averages: Sequence[AverageTrace]) -> Figure:
    """Draw ``effect-bars``: a panel per role, and for each layer a group of bars, one per kind.

    Args:
        spec: What to draw.
        averages: The averages; only the first is drawn.
    """
    average, kinds = averages[0], _kinds_of(spec, averages[:1])
    height = 0.9 + 2.1 * len(spec.roles)
    figure = NotebookFigure(width=spec.width, height=height)
    panels = figure.subplots(len(spec.roles), 1, squeeze=False).flat
    width = 0.84 / len(kinds)
    for number, (panel, role) in enumerate(zip(panels, spec.roles, strict=True)):
        for i, kind in enumerate(kinds):
            layers = average.effects[kind].get(role, ())
            means = [each.mean for each in layers]
            ends = [[abs(each.interval[end] - each.mean) for each in layers] for end in (0, 1)]
            panel.bar(
                [layer + (i - (len(kinds) - 1) / 2) * width for layer in range(len(layers))],
                means,
                width,
                yerr=ends,
                label=TITLES.get(kind, kind),
                color=series_style(i).color,
                hatch=_HATCHES[i % len(_HATCHES)],
                edgecolor="white",
                linewidth=0.3,
                error_kw={"elinewidth": 0.6, "ecolor": "0.25"},
            )
        set_up_panel(panel, f"at the {role}", number if len(spec.roles) > 1 else None)
        panel.axhline(0, color="0.5", linewidth=0.6)
        panel.set_ylabel(_EFFECT)
        use_whole_ticks(panel)
    panel.set_xlabel("layer of the restored state")
    handles, labels = panel.get_legend_handles_labels()
    add_legend(figure, handles, labels)
    add_heading(figure, spec, f"{_about(averages[:1])}, with 95% intervals")
    return figure


def draw_average_maps(spec: FigureSpec, averages: Sequence[AverageTrace]) -> Figure:
    """Draw ``average-maps``: roles by layers, a panel per setting and kind of site.

    Panels of effects share a colour scale; scores of other locators have their own.

    Args:
        spec: What to draw; all roles are shown.
        averages: The averages.
    """
    shown = [(each, kind) for each in averages for kind in _kinds_of(spec, [each])]
    roles = [role for role in ROLES if any(role in each.effects[kind] for each, kind in shown)]
    columns = min(len(shown), _MOST_MAPS)
    rows = -(-len(shown) // columns)
    height = (1.1 + 0.22 * len(roles)) * rows + 0.6
    figure = NotebookFigure(width=_MAP_INCHES * columns + 1.0, height=height)
    figure.set_layout_engine("constrained", wspace=_BETWEEN)
    panels = figure.subplots(rows, columns, squeeze=False)
    maps = [average.heat_map(kind, roles) for average, kind in shown]
    units = [average.unit for average, _ in shown]
    several = len({kind for _, kind in shown}) > 1 or len(averages) == 1
    for i, (panel, each, (average, _)) in enumerate(zip(panels.flat, maps, shown, strict=False)):
        title = average.setting or average.locator
        title += f"\n{each.title}" if several else ""
        labels = roles if i % columns == 0 else [""] * len(roles)
        _draw_shared(panel, dataclasses.replace(each, title=title), labels, i, maps, units)
    for panel in panels.flat[len(shown) :]:
        panel.set_visible(False)
    add_heading(figure, spec, _about(averages))
    return figure


def draw_fact_maps(spec: FigureSpec, examples: Sequence[ExampleTrace]) -> Figure:
    """Draw ``fact-maps``: tokens by layers, a row per example, a panel per setting and kind.

    Panels of a row that show the answer's probability share a colour scale.

    Args:
        spec: What to draw.
        examples: The traces.
    """
    rows: dict[int, list[ExampleTrace]] = {}
    for each in examples:
        rows.setdefault(each.example, []).append(each)
    heights = [0.95 + 0.22 * len(row[0].trace.tokens) for row in rows.values()]
    wanted = {
        number: [
            (each, each_map)
            for each in row
            for each_map in each.trace.heat_maps()
            if not spec.kinds or each_map.kind in spec.kinds
        ]
        for number, row in rows.items()
    }
    columns = max(map(len, wanted.values()))
    figure = NotebookFigure(width=_MAP_INCHES * columns + 0.8, height=sum(heights) + 0.5)
    figure.set_layout_engine("constrained", wspace=_BETWEEN)
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)
    for part, row in zip(parts.flat, wanted.values(), strict=True):
        panels = part.subplots(1, columns, squeeze=False)
        maps = [each_map for _, each_map in row]
        units = [each.trace.unit for each, _ in row]
        for i, (panel, (each, each_map)) in enumerate(zip(panels.flat, row, strict=False)):
            labels = each.trace.row_labels
            if i and labels == row[0][0].trace.row_labels:
                labels = ("",) * len(labels)
            if each.setting:
                several = len(each.trace.maps) > 1
                title = f"{each.setting}: {each_map.kind}" if several else each.setting
                each_map = dataclasses.replace(each_map, title=title)
            base = each.trace.maps[0].baselines.get("corrupted", 0.0)
            _draw_shared(panel, each_map, labels, i, maps, units, base=base)
        trace = row[0][0].trace
        part.suptitle("\n".join([trace.title, *trace.notes]), fontsize=TEXT, parse_math=False)
        for panel in panels.flat[len(row) :]:
            panel.set_visible(False)
    first = next(iter(rows.values()))[0].trace
    figure.suptitle(f"{spec.title or spec.name}, on {first.model}", fontsize=HEADING)
    return figure


def _draw_shared(
    panel: Axes,
    each: HeatMap,
    labels: Sequence[str],
    number: int,
    maps: Sequence[HeatMap],
    units: Sequence[str],
    *,
    base: float = 0.0,
) -> None:
    """Draw one of several maps; those with the same unit share a colour scale."""
    unit = units[number]
    alike = [other for other, own in zip(maps, units, strict=True) if own == unit]
    shared = f"{unit}\n(same scale)" if len(alike) > 1 else unit
    highest = max(other.highest for other in alike)
    draw_map(panel, each, labels, unit=shared, base=base, highest=highest)
    for text in (panel.title, panel.xaxis.label):
        text.set_fontsize(TEXT)


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
        _kind_lines(panel, averages[0], role, _kinds_of(spec, averages[:1]))
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


def _kinds_of(spec: FigureSpec, averages: Sequence[AverageTrace]) -> list[str]:
    kinds = dict.fromkeys(kind for average in averages for kind in average.effects)
    return [kind for kind in kinds if not spec.kinds or kind in spec.kinds]


def _kind_lines(panel: Axes, average: AverageTrace, role: str, kinds: Sequence[str]) -> None:
    for i, kind in enumerate(kinds):
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
    figure.suptitle(f"{spec.title or spec.name}\n{_about(averages)}", fontsize=11)


def _about(averages: Sequence[AverageTrace]) -> str:
    """``173 facts of atlas that atlas knows``."""
    known = sorted({average.known for average in averages})
    count = f"{known[0]} to {known[-1]}" if len(known) > 1 else str(known[0])
    return f"{count} facts of {averages[0].facts} that {averages[0].model} knows"
