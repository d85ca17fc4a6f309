"""Figures of the scores of cells: lines along a field, bars and violins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from editkit.benchmark.aggregate import SUMMARY, Estimate
from editkit.data_types import Score
from editkit.editing.outcomes import BASELINE
from editkit.figures import NotebookFigure, plot_with_interval
from editkit.palette import GREY, Style
from editkit.report.sections import Section
from editkit.results import Cell
from editkit_benchmarks.experiments.layout import (
    SMALL,
    TEXT,
    about_run,
    add_heading,
    add_legend,
    columns_of,
    legend_rows,
    panel_title,
    set_up_panel,
    styles_of_lines,
)
from editkit_benchmarks.experiments.published import is_same_model, published_of_cell
from editkit_benchmarks.experiments.spec import FigureSpec, Names, PublishedNumbers, value_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_scores", "plot_estimates", "scale_to_percent", "scores_of", "use_whole_ticks"]

_LEAST_WIDTH = {"lines": 1.65, "bars": 0.98, "violins": 1.65}
_PANEL_HEIGHT = 1.75
_LOW = 60.0  # percentages that are all below have a scale of their own
_NARROW = 30.0  # points of a percentage: bars over less have a scale of their own
_UNEDITED = "unedited"
_POSITIONS = {
    "subject_first": "first subject token",
    "subject_last": "last subject token",
    "subject_first_after_last": "first token after the subject",
    "last": "last token",
}
_ALL_TICKS = 12  # layers that all have a tick


def draw_scores(
    spec: FigureSpec, section: Section, names: Names, published: Sequence[PublishedNumbers] = ()
) -> Figure:
    """Draw ``lines``, ``bars`` or ``violins``: a panel per score.

    Args:
        spec: What to draw.
        section: The run; cells without any of the scores are left out.
        names: Names of values.
        published: Numbers that bars show as open markers.
    """
    known = {score.key: score for score in scores_of(section)}
    scores = [known[key] for key in spec.scores if key in known]
    if spec.kind == "bars":
        return _draw_bars(spec, section, names, scores, published)
    draw, labels = {"lines": _lines, "violins": _violins}[spec.kind](spec, section, names)
    columns = columns_of(len(scores), spec.width, _LEAST_WIDTH[spec.kind])
    rows = math.ceil(len(scores) / columns)
    entries = [*labels, _UNEDITED] if labels else []
    height = _PANEL_HEIGHT * rows + 0.6 + 0.16 * legend_rows(entries, spec.width)
    figure = NotebookFigure(width=spec.width, height=height)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    handles: dict[str, Any] = {}
    for number, (panel, score) in enumerate(zip(axes, scores, strict=False)):
        draw(panel, score)
        set_up_panel(panel, panel_title(score), number if len(scores) > 1 else None)
        scale_to_percent(panel, score)
        handles |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    for panel in axes[len(scores) :]:
        panel.set_visible(False)
    shown = [label for label in (*labels, _UNEDITED) if label in handles]
    shown = list(dict.fromkeys(shown))
    add_legend(figure, [handles[label] for label in shown], shown)
    add_heading(figure, spec, about_run(section))
    return figure


def scores_of(section: Section) -> list[Score]:
    """The summary score and all scores of the run's records."""
    return [SUMMARY, *section.run.scores]


def scale_to_percent(panel: Axes, score: Score) -> None:
    """Show 0 to 100 for percentages, unless a value exceeds 100 or all are low.

    The parts of S always have this scale.
    """
    high = panel.dataLim.y1
    whole = score.summary or score == SUMMARY or high > _LOW
    if score.scale == 100 and not score.signed and whole and high <= 105:
        panel.set_ylim(-2, 102)


def use_whole_ticks(panel: Axes) -> None:
    """Ticks at whole numbers, for layers: at each of them, if there are at most 12."""
    low, high = panel.dataLim.intervalx  # infinite without data
    if high - low < _ALL_TICKS:
        ends = math.floor(low + 0.5), math.ceil(high - 0.5)  # bars are beside their layer
        panel.xaxis.set_major_locator(FixedLocator(range(ends[0], ends[1] + 1)))
        return
    panel.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))


Draw = Callable[["Axes", Score], None]
"""Draws a score into a panel."""


# ---------------------------------------------------------------- lines


def _lines(spec: FigureSpec, section: Section, names: Names) -> tuple[Draw, list[str]]:
    """The mean along a field: a line per editor, or per editor and value of another field."""
    x = spec.x or ""
    lines: dict[str, tuple[str, list[int]]] = {}  # editor and cells of each label
    cells = section.run.cells
    shown = [i for i, cell in enumerate(cells) if x in cell.config and _is_number(cell.config[x])]
    editors = {cells[i].editor for i in shown}
    for i in shown:
        label = _line_label(spec.series, cells[i], names, one_editor=len(editors) == 1)
        lines.setdefault(label, (cells[i].editor, []))[1].append(i)
    styles = styles_of_lines({label: editor for label, (editor, _) in lines.items()})

    def draw(panel: Axes, score: Score) -> None:
        for label, (_, places) in lines.items():
            points = [
                (float(cells[i].config[x]), section.estimates[i][score.key])
                for i in places
                if score.key in section.estimates[i]
            ]
            if points:
                plot_estimates(panel, score, points, style=styles[label], label=label)
        panel.set_xlabel(x.replace("_", " "))
        if x == "layer":
            use_whole_ticks(panel)
        if spec.log:
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(FixedLocator(sorted({cells[i].config[x] for i in shown})))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if section.unedited is not None and score.key in section.unedited:
            mean = score.scale * section.unedited[score.key].mean
            panel.axhline(mean, label=_UNEDITED, color=GREY, linestyle=(0, (1, 2)), linewidth=1.2)

    return draw, list(lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _line_label(series: str | None, cell: Cell, names: Names, *, one_editor: bool) -> str:
    if series is None or cell.config.get(series) is None:
        return cell.editor
    text = _name_of(series, cell.config[series], names)
    return text if one_editor else f"{cell.editor}, {text}"


def plot_estimates(
    panel: Axes,
    score: Score,
    points: Sequence[tuple[float, Estimate]],
    *,
    style: Style,
    label: str,
    **options: Any,
) -> None:
    """A line through (x, estimate) with its interval, in the score's scale.

    Args:
        panel: Where to draw.
        score: The score.
        points: The points.
        style: The line's style.
        label: Its entry in the legend.
        options: Further arguments of :func:`plot_with_interval`.
    """
    points = sorted(points, key=lambda point: point[0])
    plot_with_interval(
        panel,
        [x for x, _ in points],
        [score.scale * estimate.mean for _, estimate in points],
        [score.scale * estimate.interval[0] for _, estimate in points],
        [score.scale * estimate.interval[1] for _, estimate in points],
        style=style,
        label=label,
        **{"markersize": 3.5, "linewidth": 1.2, **options},
    )


# ---------------------------------------------------------------- bars


def _draw_bars(
    spec: FigureSpec,
    section: Section,
    names: Names,
    scores: Sequence[Score],
    published: Sequence[PublishedNumbers],
) -> Figure:
    """A line of names on the left, and the mean and interval of each cell in every panel."""
    keys = {score.key for score in scores}
    cells = [i for i, estimates in enumerate(section.estimates) if keys & {*estimates}]
    labels = [_cell_name(section, i, names) for i in cells]
    styles = styles_of_lines(
        {label: section.run.cells[i].editor for label, i in zip(labels, cells, strict=True)}
    )
    margin = 0.25 + 0.055 * max(map(len, labels), default=0)  # inches, of the names
    columns = columns_of(len(scores), spec.width - margin, _LEAST_WIDTH["bars"])
    rows = math.ceil(len(scores) / columns)
    height = rows * (0.5 + 0.19 * len(cells)) + 0.75
    figure = NotebookFigure(width=spec.width, height=height)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    handles: dict[str, Any] = {}
    for number, (panel, score) in enumerate(zip(axes, scores, strict=False)):
        for place, (label, i) in enumerate(zip(labels, cells, strict=True)):
            estimate = section.estimates[i].get(score.key)
            if estimate is not None:
                _bar(panel, place, score, estimate, styles[label])
            for source, value in published_of_cell(
                published, section.run.cells[i], score.key, names
            ):
                [mark] = panel.plot(
                    value, place, "D", color="black", markerfacecolor="none", markersize=6
                )
                handles[_published_label(source, section)] = mark
        title = score.label if score.label and columns > 3 else panel_title(score)
        set_up_panel(panel, title, number if len(scores) > 1 else None, axis="x")
        panel.set_yticks(range(len(cells)), labels, fontsize=TEXT)
        panel.set_ylim(len(cells) - 0.4, -0.6)
        _scale_bars(panel, score)
    for panel in axes[len(scores) :]:
        panel.set_visible(False)
    add_legend(figure, list(handles.values()), list(handles))
    add_heading(figure, spec, about_run(section))
    return figure


def _bar(panel: Axes, place: int, score: Score, estimate: Estimate, style: Style) -> None:
    low, high = (abs(bound - estimate.mean) for bound in estimate.interval)
    panel.errorbar(
        score.scale * estimate.mean,
        place,
        xerr=[[score.scale * low], [score.scale * high]],
        color=style.color,
        marker=style.marker,
        markersize=4.5,
        elinewidth=1.2,
        capsize=2.5,
    )


def _published_label(published: PublishedNumbers, section: Section) -> str:
    other = "" if is_same_model(published, section.run) else f" ({published.model})"
    return f"published{other}"


def _scale_bars(panel: Axes, score: Score) -> None:
    low, high = panel.dataLim.x0, panel.dataLim.x1
    panel.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    if score.scale == 100 and not score.signed and high <= 105 and high - low > _NARROW:
        panel.set_xlim(-4, 104)
        panel.set_xticks([0, 50, 100])


# ---------------------------------------------------------------- violins


def _violins(spec: FigureSpec, section: Section, names: Names) -> tuple[Draw, list[str]]:
    """The distribution over the records of each cell: a violin around a box plot."""
    labels = [_cell_name(section, i, names) for i in range(len(section.run.cells))]
    editors = {label: c.editor for label, c in zip(labels, section.run.cells, strict=True)}
    styles = styles_of_lines(editors)

    def draw(panel: Axes, score: Score) -> None:
        samples, shown = [], []
        for label, rows in zip(labels, section.rows, strict=True):
            own = [score.scale * r.scores[score.key] for r in rows if score.key in r.scores]
            if own:
                samples.append(own)
                shown.append(label)
        if not samples:
            return
        spread = [i for i, sample in enumerate(samples) if len({*sample}) > 1]
        if spread:  # a violin needs two different values
            violins: Any = panel.violinplot(
                [samples[i] for i in spread], positions=spread, widths=0.8, showextrema=False
            )
            for i, body in zip(spread, violins["bodies"], strict=True):
                body.set(facecolor=styles[shown[i]].color, alpha=0.4, edgecolor="none")
        panel.boxplot(
            samples,
            positions=range(len(samples)),
            widths=0.2,
            showmeans=True,
            medianprops={"color": "black"},
            meanprops={
                "marker": "D",
                "markersize": 4,
                "markerfacecolor": "white",
                "markeredgecolor": "black",
            },
            flierprops={"marker": ".", "markersize": 2.5, "alpha": 0.4},
        )
        rotated = sum(map(len, shown)) > 9 * _LEAST_WIDTH["violins"]
        turn: dict[str, Any] = {"rotation": 30, "ha": "right"} if rotated else {}
        panel.set_xticks(range(len(shown)), shown, fontsize=SMALL, **turn)

    return draw, []


def _cell_name(section: Section, i: int, names: Names) -> str:
    """The names of a cell's named values, or its label if it has none."""
    cell = section.run.cells[i]
    if cell.editor == BASELINE:
        return _UNEDITED
    editors = {each.editor for each in section.run.cells if each.editor != BASELINE}
    named = [_name_of(field, cell.config[field], names) for field in names if field in cell.config]
    if not named:
        return section.labels[i]
    return ", ".join(named if len(editors) == 1 else [cell.editor, *named])


def _name_of(field: str, value: Any, names: Names) -> str:
    named = value_name(field, value, names)
    if named is not None:
        return named
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if field == "position":
        return _POSITIONS.get(text, text)
    return f"{field.replace('_', ' ')} {text}"
