"""Plots as SVG that lives in an HTML page: it takes the page's colours, and needs no library."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from html import escape

from editkit.benchmark.aggregate import Estimate

_BINS = 20
_SHAPES = ("circle", "square", "diamond", "triangle")
_COLORS = 8
_LABEL_HEIGHT = 13


@dataclasses.dataclass(frozen=True)
class Axis:
    """A scale from numbers to pixels.

    Attributes:
        low: Number at ``start``.
        high: Number at ``end``.
        start: Pixel.
        end: Pixel; before ``start`` where numbers grow upwards.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a number; numbers off the scale go to its ends."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """About five round numbers within the scale."""
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
    faint: bool = False


def scatter(points: Sequence[Point], x_label: str, y_label: str, *, scale: float) -> str:
    """Two scores of each editor against each other, with crosses for their 95% intervals."""
    width, height, left, bottom = 560, 400, 52, 44
    x = Axis(0, scale, left, width - 100)
    y = Axis(0, scale, height - bottom, 14)
    parts = list(_frame(x, y, x_label, y_label))
    places = _label_places([y(scale * point.y.mean) for point in points])
    for i, point in enumerate(points):
        cx, cy = x(scale * point.x.mean), y(scale * point.y.mean)
        left_end, right_end = x(scale * point.x.ci_low), x(scale * point.x.ci_high)
        low_end, high_end = y(scale * point.y.ci_low), y(scale * point.y.ci_high)
        kind = "faint" if point.faint else color(i)
        told = (
            f"{point.label}: {x_label} {_told(point.x, scale)}, {y_label} {_told(point.y, scale)}"
        )
        beside = right_end + 6
        leader = _line(right_end, cy, beside - 1, places[i], "thin")
        parts.append(
            f'<g class="{kind}"><title>{escape(told)}</title>'
            f"{_line(left_end, cy, right_end, cy)}{_line(cx, low_end, cx, high_end)}"
            f"{_marker(i, cx, cy)}{leader}"
            f'<text x="{beside:g}" y="{places[i] + 4:g}" class="halo">{escape(point.label)}</text>'
            "</g>"
        )
    return _svg(width, height, f"{y_label} against {x_label} of each editor", parts)


def intervals(estimates: Sequence[tuple[str, Estimate, bool]], label: str, *, scale: float) -> str:
    """A mean with its 95% interval, one line for each editor: (label, mean, faint)."""
    row, width = 26, 560
    longest = max((len(name) for name, _, _ in estimates), default=0)
    left = min(20 + 7 * longest, 240)
    height = row * len(estimates) + 44
    x = Axis(0, scale, left, width - 60)
    y = Axis(0, 1, height - 40, 4)
    parts = list(_frame(x, y, label, "", horizontal=False))
    for i, (name, found, faint) in enumerate(estimates):
        cy = row * i + 18
        kind = "faint" if faint else color(i)
        parts.append(
            f'<g class="{kind}"><title>{escape(f"{name}: {label} {_told(found, scale)}")}</title>'
            f'<text x="{left - 10}" y="{cy + 4}" class="end">{escape(name)}</text>'
            f"{_line(x(scale * found.ci_low), cy, x(scale * found.ci_high), cy)}"
            f"{_marker(i, x(scale * found.mean), cy)}"
            f'<text x="{width - 50}" y="{cy + 4}">{scale * found.mean:.1f}</text></g>'
        )
    return _svg(width, height, f"{label} of each editor with its 95% interval", parts)


def histogram(values: Sequence[float], low: float, high: float, i: int, told: str) -> str:
    """How the records' values of one score are spread, with a line at their mean."""
    width, height = 112, 40
    counts = [0] * _BINS
    for value in values:
        share = (value - low) / (high - low) if high > low else 0.5
        counts[min(max(int(share * _BINS), 0), _BINS - 1)] += 1
    most = max(counts)
    step = width / _BINS
    bars = "".join(
        f'<rect x="{n * step:.1f}" y="{height - 1 - 34 * count / most:.1f}" width="{step - 1:.1f}" '
        f'height="{34 * count / most:.1f}"/>'
        for n, count in enumerate(counts)
        if count
    )
    mean = Axis(low, high if high > low else low + 1, 0, width)(sum(values) / len(values))
    parts = [f'<g class="bars {color(i)}">{bars}</g>']
    if low < 0 < high:
        parts.append(_line(width / 2, 0, width / 2, height, "zero"))
    parts += [
        _line(0, height - 0.5, width, height - 0.5, "axis"),
        _line(mean, 0, mean, height, "mean"),
    ]
    return _svg(width, height, told, parts, css="histogram")


def color(i: int) -> str:
    """The class of the colour of editor number ``i``."""
    return f"c{i % _COLORS}"


def _frame(
    x: Axis, y: Axis, x_label: str, y_label: str, *, horizontal: bool = True
) -> Iterator[str]:
    for tick in x.ticks():
        yield _line(x(tick), y.start, x(tick), y.end, "grid")
        yield f'<text x="{x(tick)}" y="{y.start + 16}" class="middle tick">{tick:g}</text>'
    for tick in y.ticks() if horizontal else ():
        yield _line(x.start, y(tick), x.end, y(tick), "grid")
        yield f'<text x="{x.start - 8}" y="{y(tick) + 4}" class="end tick">{tick:g}</text>'
    middle = (x.start + x.end) / 2
    yield f'<text x="{middle:g}" y="{y.start + 34}" class="middle">{escape(x_label)}</text>'
    if y_label:
        half = (y.start + y.end) / 2
        yield (
            f'<text transform="translate(14 {half:g}) rotate(-90)" class="middle">'
            f"{escape(y_label)}</text>"
        )


def _label_places(heights: Sequence[float]) -> list[float]:
    """Heights for labels, near their points, none upon another or above the picture."""
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


def _marker(i: int, x: float, y: float) -> str:
    """A mark that colour-blind readers can tell from others, too."""
    shape = _SHAPES[i % len(_SHAPES)]
    if shape == "circle":
        return f'<circle cx="{x}" cy="{y}" r="5"/>'
    corners = {
        "square": ((-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)),
        "diamond": ((0, -6.5), (6.5, 0), (0, 6.5), (-6.5, 0)),
        "triangle": ((0, -6), (6, 5), (-6, 5)),
    }[shape]
    points = " ".join(f"{x + dx:g},{y + dy:g}" for dx, dy in corners)
    return f'<polygon points="{points}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"{kind}/>'


def _told(estimate: Estimate, scale: float) -> str:
    return f"{scale * estimate.mean:.1f} ±{scale * estimate.half_width:.1f}"


def _svg(width: float, height: float, told: str, parts: Sequence[str], css: str = "plot") -> str:
    return (
        f'<svg class="{css}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(told)}">{"".join(parts)}</svg>'
    )
