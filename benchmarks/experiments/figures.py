"""Figures of an experiment, from the rows of its cells. Every one is told apart without colour."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from editkit.benchmark.aggregate import SUMMARY
from editkit.data_types import Score
from editkit.editing.outcomes import BASELINE
from editkit.report import Section
from editkit_benchmarks.experiments.spec import FigureSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A6D00", "#56B4E9", "#5D4BA8", "#555555")
MARKERS = "osD^vPX*"
STYLES = ("-", "--", "-.", ":")
_PANEL = 4.2, 3.1
_MOST_IN_A_ROW = 4
Names = Mapping[str, Mapping[str, Any]]


def draw(spec: FigureSpec, section: Section, names: Names) -> Figure:
    """One figure.

    Args:
        spec: What to draw.
        section: The run.
        names: Names of values, by field of a configuration.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scores = [s for s in (SUMMARY, *section.run.scores) if s.key in spec.scores]
    scores.sort(key=lambda score: spec.scores.index(score.key))
    columns = min(len(scores), _MOST_IN_A_ROW if spec.kind == "lines" else 3)
    rows = math.ceil(len(scores) / columns)
    figure = Figure(
        figsize=(_PANEL[0] * columns, _PANEL[1] * rows + 0.7), layout="constrained", dpi=120
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    drawing = {"lines": _lines, "bars": _bars, "violins": _violins}[spec.kind]
    for panel, score in zip(axes, scores, strict=False):
        drawing(panel, spec, section, score, names)
        panel.set_title(f"{score.label or score.key}", fontsize=11)
        panel.grid(axis="y", color="0.85", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        keep_percent(panel, score)
    for panel in list(axes)[len(scores) :]:
        panel.set_visible(False)
    handles, labels = next(iter(figure.axes)).get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
    run = section.run
    about = f"{run.dataset['n_records']} records of {run.dataset['name']}, on {run.model['name']}"
    figure.suptitle(f"{spec.title or spec.name}\n", fontsize=13)
    figure.text(0.5, 0.955 if rows > 1 else 0.93, about, ha="center", va="top", fontsize=9)
    return figure


def keep_percent(panel: Axes, score: Score) -> None:
    """The whole scale from 0 to 100 for shares; others, and what goes beyond, as they are."""
    if score.scale == 100 and not score.signed and panel.dataLim.y1 <= 105:
        panel.set_ylim(-2, 102)


def _lines(panel: Axes, spec: FigureSpec, section: Section, score: Any, names: Names) -> None:
    """A mean along a field with its 95% area, a line for each value of another field."""
    fields = [field for field in (spec.x, spec.series) if field is not None]
    lines: dict[str, list[tuple[float, Any]]] = {}
    for cell, found in zip(section.run.cells, section.estimates, strict=True):
        if score.key in found and all(field in cell.config for field in fields):
            value = cell.config[spec.series] if spec.series else cell.editor
            line = _name(spec.series, value, names)
            lines.setdefault(line, []).append((float(cell.config[spec.x or ""]), found[score.key]))
    for i, (label, points) in enumerate(lines.items()):
        points.sort(key=lambda point: point[0])
        xs = [x for x, _ in points]
        color = COLORS[i % len(COLORS)]
        panel.plot(
            xs,
            [score.scale * found.mean for _, found in points],
            color=color,
            marker=MARKERS[i % len(MARKERS)],
            linestyle=STYLES[i % len(STYLES)],
            markersize=5,
            label=label,
        )
        panel.fill_between(
            xs,
            [score.scale * found.ci_low for _, found in points],
            [score.scale * found.ci_high for _, found in points],
            color=color,
            alpha=0.18,
            linewidth=0,
        )
    panel.set_xlabel((spec.x or "").replace("_", " "))
    if spec.x == "layer":
        panel.xaxis.get_major_locator().set_params(integer=True)
    _unedited(panel, section, score)


def _bars(panel: Axes, spec: FigureSpec, section: Section, score: Any, names: Names) -> None:
    """A mean with its 95% interval for each cell."""
    drawn = [
        (_cell_name(section, i, names), found[score.key])
        for i, found in enumerate(section.estimates)
        if score.key in found
    ]
    for i, (_, found) in enumerate(drawn):
        low, high = found.mean - found.ci_low, found.ci_high - found.mean
        panel.errorbar(
            i,
            score.scale * found.mean,
            yerr=[[score.scale * low], [score.scale * high]],
            color=COLORS[i % len(COLORS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=7,
            capsize=4,
        )
    panel.set_xticks(range(len(drawn)), [name for name, _ in drawn], rotation=30, ha="right")
    panel.set_xlim(-0.6, len(drawn) - 0.4)


def _violins(panel: Axes, spec: FigureSpec, section: Section, score: Any, names: Names) -> None:
    """How the records of each cell are spread: a violin, and in it a box of the quartiles."""
    drawn = []
    for i, rows in enumerate(section.rows):
        values = [score.scale * r.scores[score.key] for r in rows if score.key in r.scores]
        if values:
            drawn.append((_cell_name(section, i, names), values))
    if not drawn:
        return
    places = range(len(drawn))
    many = [values for _, values in drawn]
    spread = [i for i, values in enumerate(many) if len(set(values)) > 1]
    if spread:
        shapes = panel.violinplot(
            [many[i] for i in spread], positions=spread, widths=0.8, showextrema=False
        )
        for i, shape in zip(spread, shapes["bodies"], strict=True):
            shape.set(facecolor=COLORS[i % len(COLORS)], alpha=0.35, edgecolor="none")
    panel.boxplot(
        many,
        positions=list(places),
        widths=0.18,
        showmeans=True,
        medianprops={"color": "black"},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black"},
        flierprops={"marker": ".", "markersize": 3, "alpha": 0.4},
    )
    panel.set_xticks(list(places), [name for name, _ in drawn], rotation=20, ha="right")


def _unedited(panel: Axes, section: Section, score: Any) -> None:
    if section.unedited is not None and score.key in section.unedited:
        mean = score.scale * section.unedited[score.key].mean
        panel.axhline(mean, color="0.45", linestyle=(0, (1, 2)), linewidth=1.2, label="unedited")


def _cell_name(section: Section, i: int, names: Names) -> str:
    """The name of a cell's only named value, or else its label."""
    if section.run.cells[i].editor == BASELINE:
        return "unedited"
    config: Mapping[str, Any] = section.run.cells[i].config
    told = [_name(field, config[field], names) for field in names if field in config]
    return ", ".join(told) or section.labels[i]


def _name(field: str | None, value: Any, names: Names) -> str:
    for name, named in names.get(field or "", {}).items():
        if json.dumps(named) == json.dumps(value):
            return name
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.replace("_", " ") if field in (None, "position") else f"{field} {text}"
