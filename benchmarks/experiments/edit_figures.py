"""Figures of models with many facts: scores by number of facts, retention, and single edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from editkit.benchmark.aggregate import SUMMARY, Estimate, retention
from editkit.data_types import Score
from editkit.figures import NotebookFigure, plot_with_interval
from editkit.palette import GREY, Style
from editkit.report.sections import Section
from editkit_benchmarks.experiments.curves import Curve, curves_of
from editkit_benchmarks.experiments.layout import (
    TEXT,
    add_heading,
    add_legend,
    columns_of,
    panel_title,
    set_up_panel,
    styles_of_lines,
)
from editkit_benchmarks.experiments.score_figures import scale_to_percent
from editkit_benchmarks.experiments.spec import NOTE, FigureSpec, Names
from editkit_benchmarks.experiments.tables import single_edits, single_fact_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_edits", "draw_ranked", "draw_retention", "draw_steps"]

_LEAST_WIDTH = 1.65  # of a panel, in inches
_CLOSEST_TICKS = 1.8  # ratio of two numbers of facts
_TITLES = {
    "perplexity/ratio": "perplexity / unedited",
    "drift/kl_mean": "drift: mean KL (nats)",
    "change_norm/max": "change of a layer (% norm)",
    "note/delta_norm": "norm of the update of each edit",
}
_LARGEST = 1e9  # of a logarithmic axis: beyond that, a model is broken


def draw_edits(spec: FigureSpec, section: Section, names: Names) -> Figure:
    """Draw ``edits``: a row of panels per way of editing, a column per score.

    Args:
        spec: What to draw.
        section: The run; ways of editing with a single number of facts are left out.
        names: Names of values.
    """

    def draw(panel: Axes, own: Sequence[Curve], score: Score, styles: dict[str, Style]) -> None:
        for curve in own:
            points = curve.estimates(score.key, geometric=spec.log)
            if points:
                _plot(panel, score, points, styles[curve.label], curve.label)
        panel.set_xscale("log")
        _use_ticks(panel, sizes)
        panel.set_xlabel(_facts_label(own))
        if spec.log:
            _use_log_scale(panel, section, score)
        else:
            _unedited(panel, section, score)

    curves = [curve for curve in curves_of(section, names) if len(curve.results) > 1]
    sizes = sorted({result.state.at for curve in curves for result in curve.results})
    return _grid(spec, section, curves, draw)


def draw_retention(spec: FigureSpec, section: Section, names: Names) -> Figure:
    """Draw ``retention``: scores at the end of sequences, by the age of facts in steps.

    Args:
        spec: What to draw.
        section: The run.
        names: Names of values.
    """
    curves = [curve for curve in curves_of(section, names) if curve.is_sequence]
    ends = {id(curve): curve.results[-1] for curve in curves}
    means = {key: retention(end.series, end.state, section.run.scores) for key, end in ends.items()}
    ages = sorted({age for own in means.values() for age in own}, key=lambda age: age.low)

    def draw(panel: Axes, curves: Sequence[Curve], score: Score, styles: dict[str, Style]) -> None:
        for curve in curves:
            own = means[id(curve)]
            points = [
                (place, own[age][score.key])
                for place, age in enumerate(ages)
                if score.key in own.get(age, {})
            ]
            if points:
                _plot(panel, score, points, styles[curve.label], curve.label)
        panel.set_xticks(range(len(ages)), [age.label for age in ages])
        panel.set_xlim(-0.3, len(ages) - 0.7)
        step = curves[0].results[0].series.regime.step
        panel.set_xlabel(f"steps since a fact was written, {step} per step")
        _unedited(panel, section, score)

    return _grid(spec, section, curves, draw)


def draw_ranked(spec: FigureSpec, section: Section, names: Names) -> Figure:
    """Draw ``ranked``: scores of the models with one fact each, from the largest to the smallest.

    Args:
        spec: What to draw; both axes are logarithmic.
        section: The run.
        names: Names of values.
    """

    def draw(panel: Axes, curves: Sequence[Curve], score: Score, styles: dict[str, Style]) -> None:
        for curve in curves:
            values = [value for value, _ in single_edits(curve.results[0], score.key)]
            points = [
                (float(rank), Estimate(value, None, None, 1))
                for rank, value in enumerate(values, start=1)
            ]
            _plot(panel, score, points, styles[curve.label], curve.label, markersize=2)
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        panel.set_xlabel("single edits, by rank")
        _use_log_scale(panel, section, score)

    curves = single_fact_curves(section, names)
    return _grid(spec, section, curves, draw)


def draw_steps(spec: FigureSpec, section: Section, names: Names) -> Figure:
    """Draw ``steps``: what editors note of each edit of their first sequence, in order.

    Args:
        spec: What to draw; the vertical axis is logarithmic.
        section: The run.
        names: Names of values.
    """

    def draw(panel: Axes, curves: Sequence[Curve], score: Score, styles: dict[str, Style]) -> None:
        for curve in curves:
            noted = curve.notes(score.key.removeprefix(NOTE))
            points = [
                (float(row.place), Estimate(value, None, None, 1))
                for row, value in noted
                if value > 0
            ]
            if points:
                thin = {"markersize": 2, "linewidth": 0.5, "linestyle": "-"}
                _plot(panel, score, points, styles[curve.label], curve.label, **thin)
        panel.set_xlabel(_facts_label(curves))
        panel.set_yscale("log")

    curves = [curve for curve in curves_of(section, names) if curve.is_sequence]
    return _grid(spec, section, curves, draw)


# ---------------------------------------------------------------- panels

Draw = Callable[["Axes", Sequence[Curve], Score, dict[str, Style]], None]
"""Draws some curves of one way of editing, with the style of each label."""


def _grid(spec: FigureSpec, section: Section, curves: Sequence[Curve], draw: Draw) -> Figure:
    """A figure with a row per way of editing and a column per score."""
    known = {s.key: s for s in (SUMMARY, *section.run.scores, *section.run.model_scores)}
    notes = [key for key in spec.scores if key.startswith(NOTE)]
    known |= {key: Score(key, key.removeprefix(NOTE).replace("_", " "), scale=1) for key in notes}
    scores = [known[key] for key in spec.scores if key in known]
    styles = styles_of_lines({curve.label: curve.results[0].editor for curve in curves})
    ways = list(dict.fromkeys(curve.way for curve in curves)) or [""]
    columns = columns_of(len(scores), spec.width, _LEAST_WIDTH)
    per_way = -(-len(scores) // columns)  # rows
    rows = per_way * len(ways)
    height = 2.0 * rows + 0.7 + 0.16 * -(-len(styles) // 5)
    figure = NotebookFigure(width=spec.width, height=height)
    grid = figure.subplots(rows, columns, squeeze=False)
    legend: dict[str, Any] = {}
    for number, way in enumerate(ways):
        own = [curve for curve in curves if curve.way == way]
        panels = list(grid[number * per_way : (number + 1) * per_way].flat)
        for panel, first, score in zip(panels, grid[:per_way].flat, scores, strict=False):
            if number:
                panel.sharex(first)
                panel.sharey(first)
            if own:
                draw(panel, own, score, styles)
            set_up_panel(panel, _title(score), None)
            if panel.get_yscale() == "linear":
                scale_to_percent(panel, score)
            handles, names = panel.get_legend_handles_labels()
            legend |= dict(zip(names, handles, strict=True))
        for panel in panels[len(scores) :]:
            panel.set_visible(False)
        for row in grid[number * per_way : (number + 1) * per_way]:
            row[0].set_ylabel(_axis_label(scores), fontsize=TEXT)
    order = list(dict.fromkeys(label for label in (*styles, *legend) if label in legend))
    add_legend(figure, [legend[label] for label in order], order)
    run = section.run
    add_heading(figure, spec, f"facts of {run.dataset['name']}, on {run.model['name']}")
    return figure


def _facts_label(curves: Sequence[Curve]) -> str:
    """Label of an axis of numbers of facts, with the way of editing."""
    return f"facts in the model,\nwritten {curves[0].way}"


def _axis_label(scores: Sequence[Score]) -> str:
    """What all vertical axes of a row have in common; nothing if their units differ."""
    if all(score.scale == 100 and not score.signed for score in scores):
        return "score (%)"
    return _title(scores[0]) if len(scores) == 1 else ""


def _title(score: Score) -> str:
    return _TITLES.get(score.key) or panel_title(score)


def _plot(
    panel: Axes,
    score: Score,
    points: Sequence[tuple[float, Estimate]],
    style: Style,
    label: str,
    **options: Any,
) -> None:
    """A line with its interval; what is beyond the axis is drawn at its end."""

    low, high = -_LARGEST, _LARGEST
    if score.scale == 100 and not score.signed and all(e.mean <= 1 for _, e in points):
        low, high = 0.0, 1.0  # of a fraction's interval

    def bounded(value: float) -> float:
        return score.scale * max(min(value, high), low)  # nan, for no interval, stays nan

    plot_with_interval(
        panel,
        [at for at, _ in points],
        [bounded(estimate.mean) for _, estimate in points],
        [bounded(estimate.interval[0]) for _, estimate in points],
        [bounded(estimate.interval[1]) for _, estimate in points],
        style=style,
        label=label,
        alpha=0.13,
        **{"markersize": 3.5, "linewidth": 1.2, **options},
    )


def _use_ticks(panel: Axes, places: Sequence[int]) -> None:
    """Ticks at the checkpoints; those too close to the next one have no tick."""
    ticks: list[int] = []
    for place in reversed(places):
        if not ticks or ticks[-1] >= _CLOSEST_TICKS * place:
            ticks.append(place)
    panel.xaxis.set_major_locator(FixedLocator(ticks[::-1]))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    panel.xaxis.set_minor_locator(NullLocator())


def _use_log_scale(panel: Axes, section: Section, score: Score) -> None:
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(numticks=8))
    panel.yaxis.set_minor_locator(NullLocator())
    threshold = _threshold(section, score)
    if threshold is not None:
        label = f"collapse ({threshold:g})"
        panel.axhline(threshold, color="0.3", linestyle=(0, (4, 2)), linewidth=1, label=label)


def _threshold(section: Section, score: Score) -> float | None:
    """The collapse threshold of a ratio to the unedited model."""
    metric, _, name = score.key.partition("/")
    if name != "ratio":
        return None
    configs = [each["config"] for each in section.run.model_metrics if each["name"] == metric]
    threshold = configs[0].get("threshold") if configs else None
    return None if threshold is None else float(threshold)


def _unedited(panel: Axes, section: Section, score: Score) -> None:
    if section.unedited is not None and score.key in section.unedited:
        mean = score.scale * section.unedited[score.key].mean
        panel.axhline(mean, color=GREY, linestyle=(0, (1, 2)), linewidth=1.2, label="unedited")
