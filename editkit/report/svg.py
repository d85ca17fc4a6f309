"""Plots as SVG inside the HTML page.

They are not made with matplotlib for three reasons. Plots take their colours and font from the
page's style sheet, so they follow its light and dark theme. Every mark has a title that shows its
numbers under the mouse. And a page has one histogram per editor and score, each with a tenth of the
bytes of matplotlib's SVG.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence

from markupsafe import Markup

from editkit.benchmark.aggregate import Estimate
from editkit.report.marks import Mark, marker

_BINS = 20
_LABEL_HEIGHT = 13
_FIELD = re.compile(r"(\(|, )\w+ (?!(?:true|false|null)\b)([a-z_]\w*)(?=[,)])", re.I)
_PLOT = 460  # right end of the axes
_LETTER = 7
_LONGEST_NAME = 42
_MOST_LABELS = 12
_BEST = 8  # points with a label among more than that
_DECADES = 2.5  # the longest logarithmic axis with ticks between powers of ten


@dataclasses.dataclass(frozen=True)
class Axis:
    """A scale from numbers to pixels.

    Attributes:
        low: Number at pixel ``start``; its logarithm to base 10 on a logarithmic axis.
        high: Number at pixel ``end``, likewise.
        start: First pixel.
        end: Last pixel; less than ``start`` on a vertical axis.
        logarithmic: Whether equal distances are equal ratios.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a number; numbers off the scale are clipped to its ends."""
        value = math.log10(value) if self.logarithmic else value
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """About five round numbers within the scale.

        On a logarithmic axis powers of ten, and 2 and 5 times them on a short one.
        """
        if self.logarithmic:
            powers = range(math.floor(self.low), math.floor(self.high) + 1)
            factors = (1,) if self.high - self.low > _DECADES else (1, 2, 5)
            low, high = 10**self.low * 0.999, 10**self.high * 1.001
            every = (factor * 10.0**n for n in powers for factor in factors)
            return [value for value in every if low <= value <= high]
        raw = (self.high - self.low) / 5
        step = 10 ** math.floor(math.log10(raw))
        step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclasses.dataclass(frozen=True)
class Point:
    """An editor in a scatter plot."""

    label: str
    x: Estimate
    y: Estimate
    mark: Mark


def scatter(points: Sequence[Point], x_label: str, y_label: str, *, scale: float) -> Markup:
    """Two scores of each editor against each other, with crosses for their 95% intervals.

    With more points than have room for a label, only the best ones have one; marks and the page's
    legend identify the others.
    """
    height, left, bottom = 400, 52, 44
    named = labelled(points)
    names = dict(zip(named, shown_names([points[i].label for i in named]), strict=True))
    width = _PLOT + _room(names.values())
    x = Axis(0, scale, left, _PLOT)
    y = Axis(0, scale, height - bottom, 14)
    parts = list(_frame(x, y, x_label, y_label))
    label_ys = dict(
        zip(named, _label_places([y(scale * points[i].y.mean) for i in named]), strict=True)
    )
    marks = [(x(scale * point.x.mean), y(scale * point.y.mean)) for point in points]
    shapes = []
    for i, point in enumerate(points):
        cx, cy = x(scale * point.x.mean), y(scale * point.y.mean)
        left_end, right_end = (x(scale * end) for end in _ends(point.x))
        low_end, high_end = (y(scale * end) for end in _ends(point.y))
        numbers = f"{x_label} {_interval(point.x, scale)}, {y_label} {_interval(point.y, scale)}"
        content = [_line(left_end, cy, right_end, cy), _line(cx, low_end, cx, high_end)]
        shape = [marker(point.mark, cx, cy)]
        if i in names:
            label_y, length = label_ys[i], _LETTER * len(names[i])
            after, before = right_end + 6, left_end - 6
            is_left = _is_covered(after, after + length, label_y, marks) and not (
                before - length < left or _is_covered(before - length, before, label_y, marks)
            )
            end_x, label_x = (left_end, before) if is_left else (right_end, after)
            content.append(_line(end_x, cy, label_x, label_y, "thin"))
            css = "halo end" if is_left else "halo"
            shape.append(_text(label_x, label_y + 4, names[i], css))
        parts.append(_group(point.mark, f"{point.label}: {numbers}", content))
        shapes.append(_group(point.mark, f"{point.label}: {numbers}", shape))
    parts += shapes  # above all lines
    return _svg(width, height, f"{y_label} against {x_label} of each editor", parts)


def labelled(points: Sequence[Point]) -> list[int]:
    """Places of the points with a label: all of a few, or those with the best sum of scores."""
    if len(points) <= _MOST_LABELS:
        return list(range(len(points)))
    order = sorted(range(len(points)), key=lambda i: points[i].x.mean + points[i].y.mean)
    return sorted(order[-_BEST:])


def intervals(
    estimates: Sequence[tuple[str, Estimate, Mark]], label: str, *, scale: float
) -> Markup:
    """A mean with its 95% interval on one line per editor.

    Args:
        estimates: Label of the editor, mean and mark.
        label: Label of the score.
        scale: Multiplies all numbers.
    """
    names = shown_names([name for name, _, _ in estimates])
    row, left = 26, _room(names)
    width = max(560, left + 260)
    height = row * len(estimates) + 44
    x = Axis(0, scale, left, width - 60)
    y = Axis(0, 1, height - 40, 4)
    parts = list(_frame(x, y, label, "", horizontal=False))
    for i, (name, estimate, mark) in enumerate(estimates):
        cy = row * i + 18
        low_end, high_end = (x(scale * end) for end in _ends(estimate))
        content = [
            _text(left - 10, cy + 4, names[i], "end"),
            _line(low_end, cy, high_end, cy),
            marker(mark, x(scale * estimate.mean), cy),
            _text(width - 50, cy + 4, f"{scale * estimate.mean:.1f}"),
        ]
        title = f"{name}: {label} {_interval(estimate, scale)}"
        parts.append(_group(mark, title, content))
    return _svg(width, height, f"{label} of each editor with its 95% interval", parts)


def curves(
    lines: Sequence[tuple[str, Mark, Sequence[tuple[int, Estimate]]]],
    x_label: str,
    y_label: str,
    scale: float,
) -> Markup:
    """A score against a number on a logarithmic axis, a line per name, with 95% intervals.

    Args:
        lines: Name, mark, and pairs of a number from 1 and an estimate, in ascending order.
        x_label: Label of the horizontal axis.
        y_label: Label of the score.
        scale: Multiplies all estimates.
    """
    height, left, bottom = 400, 52, 44
    names = shown_names([name for name, _, _ in lines])
    width = _PLOT + _room(names)
    most = max(at for _, _, points in lines for at, _ in points)
    x = Axis(0, math.log10(max(most, 2)), left, _PLOT, logarithmic=True)
    y = Axis(0, scale, height - bottom, 14)
    parts = list(_frame(x, y, x_label, y_label))
    label_ys = _label_places([y(scale * points[-1][1].mean) for _, _, points in lines])
    for (name, mark, points), shown, label_y in zip(lines, names, label_ys, strict=True):
        places = [(x(at), y(scale * estimate.mean)) for at, estimate in points]
        course = " ".join(f"{cx:g},{cy:g}" for cx, cy in places)
        content = [
            Markup('<polyline points="{}" stroke-dasharray="{}"/>').format(course, mark.dashes)
        ]
        for (cx, cy), (_, estimate) in zip(places, points, strict=True):
            low_end, high_end = (y(scale * end) for end in _ends(estimate))
            content += [_line(cx, low_end, cx, high_end), marker(mark, cx, cy)]
        end_x, end_y = places[-1]
        content.append(_line(end_x, end_y, end_x + 9, label_y, "thin"))
        content.append(_text(end_x + 10, label_y + 4, shown, "halo"))
        numbers = ", ".join(f"{_interval(estimate, scale)} at {at}" for at, estimate in points)
        parts.append(_group(mark, f"{name}: {y_label} {numbers}", content))
    return _svg(width, height, f"{y_label} against {x_label}", parts)


def histogram(
    values: Sequence[float],
    low: float,
    high: float,
    mark: Mark,
    name: str,
    *,
    logarithmic: bool = False,
) -> Markup:
    """The distribution of one score over the records, with a line at the mean.

    Args:
        values: One number per record, at least one.
        low: Left end of the scale.
        high: Right end of the scale.
        mark: The editor's mark, for its colour.
        name: Description for screen readers.
        logarithmic: Whether equal distances are equal ratios; ``low`` is positive then.
    """
    width, height = 112, 40
    if high <= low:  # equal numbers: in the middle
        low, high = low - max(1.0, abs(low)), low + max(1.0, abs(low))
    ends = (math.log10(low), math.log10(high)) if logarithmic else (low, high)

    def place(value: float) -> float:
        """Distance from the left end as a share of the width."""
        value = math.log10(max(value, low)) if logarithmic else value
        return min(max((value - ends[0]) / (ends[1] - ends[0]), 0.0), 1.0)

    counts = [0] * _BINS
    for value in values:
        counts[min(int(place(value) * _BINS), _BINS - 1)] += 1
    most = max(counts)
    step = width / _BINS
    bars = Markup().join(
        Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            n * step, height - 1 - 34 * count / most, step - 1, 34 * count / most
        )
        for n, count in enumerate(counts)
        if count
    )
    mean = round(width * place(sum(values) / len(values)), 1)
    parts = [Markup('<g class="bars {}">{}</g>').format(mark.css, bars)]
    if low < 0 < high:
        zero = round(width * place(0.0), 1)
        parts.append(_line(zero, 0, zero, height, "zero"))
    parts += [
        _line(0, height - 0.5, width, height - 0.5, "axis"),
        _line(mean, 0, mean, height, "mean"),
    ]
    return _svg(width, height, name, parts, css="histogram")


def _is_covered(
    start: float, end: float, height: float, marks: Sequence[tuple[float, float]]
) -> bool:
    """Whether a mark is on a label between two horizontal places."""
    return any(start < cx < end and abs(cy - height) < _LABEL_HEIGHT * 0.7 for cx, cy in marks)


def _room(names: Iterable[str]) -> float:
    """Width of the longest name, as it is drawn next to a plot."""
    return 20 + _LETTER * max(map(len, names), default=0)


def shown_names(names: Sequence[str]) -> list[str]:
    """Names as they are drawn: shorter where one is too long, and as distinct as before.

    First without fields that their values explain, ``position`` of ``position subject_last``; then
    cut in the middle.
    """
    if max(map(len, names), default=0) <= _LONGEST_NAME:
        return list(names)
    short = [_FIELD.sub(r"\1\2", name) for name in names]
    if len(set(short)) < len(set(names)):
        short = list(names)
    half = _LONGEST_NAME // 2
    cut = [f"{n[:half]}…{n[1 - half :]}" if len(n) > _LONGEST_NAME else n for n in short]
    return cut if len(set(cut)) == len(set(short)) else short


def _frame(
    x: Axis, y: Axis, x_label: str, y_label: str, *, horizontal: bool = True
) -> Iterator[Markup]:
    for tick in x.ticks():
        yield _line(x(tick), y.start, x(tick), y.end, "grid")
        yield _text(x(tick), y.start + 16, f"{tick:g}", "middle tick")
    for tick in y.ticks() if horizontal else ():
        yield _line(x.start, y(tick), x.end, y(tick), "grid")
        yield _text(x.start - 8, y(tick) + 4, f"{tick:g}", "end tick")
    yield _text((x.start + x.end) / 2, y.start + 34, x_label, "middle")
    if y_label:
        yield Markup(
            '<text transform="translate(14 {:g}) rotate(-90)" class="middle">{}</text>'
        ).format((y.start + y.end) / 2, y_label)


def _label_places(heights: Sequence[float]) -> list[float]:
    """Label heights near their points that neither overlap nor leave the top of the plot."""
    places = list(heights)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    for _ in range(50):
        moved = False
        for upper, lower in itertools.pairwise(order):
            overlap = _LABEL_HEIGHT - (places[lower] - places[upper])
            if overlap > 0.1:
                places[upper] -= overlap / 2
                places[lower] += overlap / 2
                moved = True
        if not moved:
            break
    least = _LABEL_HEIGHT / 2
    for i in order:  # from the top
        places[i] = max(places[i], least)
        least = places[i] + _LABEL_HEIGHT - 0.1
    return places


def _group(mark: Mark, title: str, content: Sequence[Markup]) -> Markup:
    """The marks of one editor, in its colour and with a title under the mouse."""
    return Markup('<g class="mark {}"><title>{}</title>{}</g>').format(
        mark.css, title, Markup().join(content)
    )


def _line(x1: float, y1: float, x2: float, y2: float, css: str = "") -> Markup:
    return Markup('<line x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}" class="{}"/>').format(
        x1, y1, x2, y2, css
    )


def _text(x: float, y: float, text: str, css: str = "") -> Markup:
    return Markup('<text x="{:g}" y="{:g}" class="{}">{}</text>').format(x, y, css, text)


def _ends(estimate: Estimate) -> tuple[float, float]:
    """Ends of the line that shows an interval; without an interval it has no length."""
    return estimate.interval if estimate.half_width is not None else (estimate.mean, estimate.mean)


def _interval(estimate: Estimate, scale: float) -> str:
    return estimate.printed(".1f", scale).replace("± ", "±")


def _svg(
    width: float, height: float, name: str, parts: Sequence[Markup], css: str = "plot"
) -> Markup:
    return Markup(
        '<svg class="{}" viewBox="0 0 {:g} {:g}" width="{:g}" height="{:g}" role="img" '
        'aria-label="{}">{}</svg>'
    ).format(css, width, height, width, height, name, Markup().join(parts))
