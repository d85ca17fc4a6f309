"""Figures of an experiment: scores of its cells, effects of its traces, or both."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from matplotlib.ticker import MaxNLocator

from editkit.benchmark.aggregate import SUMMARY, Estimate
from editkit.data_types import Score
from editkit.editing.outcomes import BASELINE
from editkit.figures import NotebookFigure, plot_with_interval
from editkit.palette import Style, series_style
from editkit.report.sections import Section
from editkit.tracing.plots import TITLES
from editkit_benchmarks.experiments.spec import FigureSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from editkit_plugins.tracing.averages import AverageTrace

_MAX_COLUMNS = {"lines": 4, "bars": 3, "violins": 3}
_EFFECT = "average indirect effect"

Names = Mapping[str, Mapping[str, Any]]
"""Names of values in figures, by field of a configuration and name."""

Legend = tuple[list[Any], list[str]]
"""Handles and labels."""


# ---------------------------------------------------------------- scores


def draw_scores(spec: FigureSpec, section: Section, names: Names) -> Figure:
    """Draw ``lines``, ``bars`` or ``violins``: a panel per score.

    Args:
        spec: What to draw.
        section: The run.
        names: Names of values.
    """
    scores = [score for score in _scores(section) if score.key in spec.scores]
    scores.sort(key=lambda score: spec.scores.index(score.key))
    columns = min(len(scores), _MAX_COLUMNS[spec.kind])
    rows = math.ceil(len(scores) / columns)
    figure = NotebookFigure(width=4.2 * columns, height=3.1 * rows + 0.7)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    draw = {"lines": _lines, "bars": _bars, "violins": _violins}[spec.kind]
    for panel, score in zip(axes, scores, strict=False):
        draw(panel, spec, section, score, names)
        panel.set_title(score.label or score.key, fontsize=11)
        panel.grid(axis="y", color="0.85", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        scale_to_percent(panel, score)
    for panel in axes[len(scores) :]:
        panel.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
    run = section.run
    about = f"{run.dataset['n_records']} records of {run.dataset['name']}, on {run.model['name']}"
    figure.suptitle(f"{spec.title or spec.name}\n", fontsize=13)
    figure.text(0.5, 0.955 if rows > 1 else 0.93, about, ha="center", va="top", fontsize=9)
    return figure


def scale_to_percent(panel: Axes, score: Score) -> None:
    """Show 0 to 100 for scores that are percentages, unless a value exceeds 100."""
    if score.scale == 100 and not score.signed and panel.dataLim.y1 <= 105:
        panel.set_ylim(-2, 102)


def _scores(section: Section) -> list[Score]:
    return [SUMMARY, *section.run.scores]


def _plot_estimates(
    panel: Axes, score: Score, points: Sequence[tuple[float, Estimate]], **options: Any
) -> None:
    """A line through (x, estimate) with its interval, in the score's scale."""
    points = sorted(points, key=lambda point: point[0])
    plot_with_interval(
        panel,
        [x for x, _ in points],
        [score.scale * estimate.mean for _, estimate in points],
        [score.scale * estimate.interval[0] for _, estimate in points],
        [score.scale * estimate.interval[1] for _, estimate in points],
        **options,
    )


def _lines(panel: Axes, spec: FigureSpec, section: Section, score: Score, names: Names) -> None:
    """The mean along a field, a line for each value of another field."""
    fields = [field for field in (spec.x, spec.series) if field is not None]
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    for cell, estimates in zip(section.run.cells, section.estimates, strict=True):
        if score.key in estimates and all(field in cell.config for field in fields):
            value = cell.config[spec.series] if spec.series else cell.editor
            points = lines.setdefault(_name_of(spec.series, value, names), [])
            points.append((float(cell.config[spec.x or ""]), estimates[score.key]))
    for i, (label, points) in enumerate(lines.items()):
        _plot_estimates(panel, score, points, style=series_style(i), label=label, markersize=5)
    panel.set_xlabel((spec.x or "").replace("_", " "))
    if spec.x == "layer":
        _use_whole_ticks(panel)
    if section.unedited is not None and score.key in section.unedited:
        mean = score.scale * section.unedited[score.key].mean
        panel.axhline(mean, color="0.45", linestyle=(0, (1, 2)), linewidth=1.2, label="unedited")


def _bars(panel: Axes, spec: FigureSpec, section: Section, score: Score, names: Names) -> None:
    """The mean and interval of each cell."""
    cells = [
        (_cell_name(section, i, names), estimates[score.key])
        for i, estimates in enumerate(section.estimates)
        if score.key in estimates
    ]
    for i, (_, estimate) in enumerate(cells):
        low, high = (abs(bound - estimate.mean) for bound in estimate.interval)
        panel.errorbar(
            i,
            score.scale * estimate.mean,
            yerr=[[score.scale * low], [score.scale * high]],
            color=series_style(i).color,
            marker=series_style(i).marker,
            markersize=7,
            capsize=4,
        )
    panel.set_xticks(range(len(cells)), [name for name, _ in cells], rotation=30, ha="right")
    panel.set_xlim(-0.6, len(cells) - 0.4)


def _violins(panel: Axes, spec: FigureSpec, section: Section, score: Score, names: Names) -> None:
    """The distribution over the records of each cell: a violin around a box plot."""
    cells = []
    for i, rows in enumerate(section.rows):
        values = [score.scale * row.scores[score.key] for row in rows if score.key in row.scores]
        if values:
            cells.append((_cell_name(section, i, names), values))
    if not cells:
        return
    places = list(range(len(cells)))
    samples = [values for _, values in cells]
    spread = [i for i in places if len(set(samples[i])) > 1]
    if spread:  # a violin needs two different values
        violins: Any = panel.violinplot(
            [samples[i] for i in spread], positions=spread, widths=0.8, showextrema=False
        )
        for i, body in zip(spread, violins["bodies"], strict=True):
            body.set(facecolor=series_style(i).color, alpha=0.35, edgecolor="none")
    panel.boxplot(
        samples,
        positions=places,
        widths=0.18,
        showmeans=True,
        medianprops={"color": "black"},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black"},
        flierprops={"marker": ".", "markersize": 3, "alpha": 0.4},
    )
    panel.set_xticks(places, [name for name, _ in cells], rotation=20, ha="right")


def _cell_name(section: Section, i: int, names: Names) -> str:
    """The names of a cell's named values, or its label if it has none."""
    if section.run.cells[i].editor == BASELINE:
        return "unedited"
    config: Mapping[str, Any] = section.run.cells[i].config
    named = [_name_of(field, config[field], names) for field in names if field in config]
    return ", ".join(named) or section.labels[i]


def _name_of(field: str | None, value: Any, names: Names) -> str:
    for name, named in names.get(field or "", {}).items():
        if json.dumps(named) == json.dumps(value):
            return name
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.replace("_", " ") if field in (None, "position") else f"{field} {text}"


# ---------------------------------------------------------------- effects


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
    [score] = [each for each in _scores(section) if each.key == key]
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
        _plot_estimates(
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
    _use_whole_ticks(panel)
    panel.axhline(0, color="0.6", linewidth=0.6)
    panel.grid(axis="y", color="0.88", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top"]].set_visible(False)


def _use_whole_ticks(panel: Axes) -> None:
    panel.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))


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
