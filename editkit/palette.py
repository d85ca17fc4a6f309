"""Colours and markers of what figures compare, safe for colour-blind readers and for print.

A style is bound to a name, not to a place in a list: an editor looks the same in every figure, page
and chart. Styles differ in marker as well as in colour. Grey is for what was not edited.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

__all__ = ["COLORS", "DASHES", "GREY", "MARKERS", "Style", "distinct_styles", "series_style"]

COLORS: Mapping[str, str] = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "pink": "#CC79A7",
    "olive": "#8A6D00",
    "sky": "#56B4E9",
    "indigo": "#5D4BA8",
    "orange": "#E69F00",
}
GREY = "#777777"
MARKERS = "osD^vPX"
"""In matplotlib's notation: circle, square, diamond, triangles, plus and cross."""
DASHES = ("-", "--", "-.", ":")


@dataclasses.dataclass(frozen=True)
class Style:
    """How one thing is drawn.

    Attributes:
        color: ``#RRGGBB``.
        marker: One of :data:`MARKERS`.
        dash: One of :data:`DASHES`.
    """

    color: str
    marker: str
    dash: str = "-"


def series_style(number: int) -> Style:
    """The style of a series without a name of its own, numbered from 0; repeats after 56."""
    colors = tuple(COLORS.values())
    return Style(
        colors[number % len(colors)],
        MARKERS[number % len(MARKERS)],
        DASHES[number % len(DASHES)],
    )


def distinct_styles(wanted: Mapping[str, Style | None]) -> dict[str, Style]:
    """A style for each label, no two with the same colour and marker.

    Args:
        wanted: Labels, in the order in which they are drawn, with the style that each has
            elsewhere; None if nothing is bound to it: then its name picks one.

    Returns:
        The wanted styles; of labels that share one, the first keeps it.
    """
    styles: dict[str, Style] = {}
    for label, style in sorted(wanted.items(), key=lambda item: item[1] is None):
        first = int.from_bytes(hashlib.sha256(label.encode()).digest()[:4], "big")
        choices = [series_style(first + i) for i in range(len(COLORS) * len(MARKERS))]
        if style is not None:
            choices = [style, *(dataclasses.replace(style, marker=m) for m in MARKERS), *choices]
        used = {(each.color, each.marker) for each in styles.values()}
        free = (each for each in choices if (each.color, each.marker) not in used)
        styles[label] = next(free, choices[0])
    return {label: styles[label] for label in wanted}
