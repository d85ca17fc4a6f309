"""Marks: how an editor is drawn on a page, in every table and plot the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from markupsafe import Markup

from editkit.palette import DASHES, Style
from editkit.registry.styles import styles_of

__all__ = ["Mark", "marker", "marks_of", "rules", "swatch"]

_DASHES = {"-": "", "--": "7 4", "-.": "8 3 2 3", ":": "2 3"}
_CORNERS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "s": ((-4.4, -4.4), (4.4, -4.4), (4.4, 4.4), (-4.4, 4.4)),
    "D": ((0, -6.2), (6.2, 0), (0, 6.2), (-6.2, 0)),
    "^": ((0, -5.8), (5.8, 4.6), (-5.8, 4.6)),
    "v": ((0, 5.8), (5.8, -4.6), (-5.8, -4.6)),
    "<": ((-5.8, 0), (4.6, -5.8), (4.6, 5.8)),
    ">": ((5.8, 0), (-4.6, -5.8), (-4.6, 5.8)),
    "P": (
        *((-1.9, -5.4), (1.9, -5.4), (1.9, -1.9), (5.4, -1.9), (5.4, 1.9), (1.9, 1.9)),
        *((1.9, 5.4), (-1.9, 5.4), (-1.9, 1.9), (-5.4, 1.9), (-5.4, -1.9), (-1.9, -1.9)),
    ),
    "X": (
        *((-5.2, -2.6), (-2.6, -5.2), (0, -2.6), (2.6, -5.2), (5.2, -2.6), (2.6, 0)),
        *((5.2, 2.6), (2.6, 5.2), (0, 2.6), (-2.6, 5.2), (-5.2, 2.6), (-2.6, 0)),
    ),
    "*": (
        *((0, -7), (1.8, -2.4), (6.7, -2.2), (2.8, 0.9), (4.1, 5.7)),
        *((0, 2.9), (-4.1, 5.7), (-2.8, 0.9), (-6.7, -2.2), (-1.8, -2.4)),
    ),
}
"""Corners in pixels from the middle; all areas are about that of the circle."""


@dataclasses.dataclass(frozen=True)
class Mark:
    """How one editor is drawn.

    Attributes:
        css: CSS class that sets ``--mark``, its colour in the page's theme.
        style: Its style in figures.
    """

    css: str
    style: Style

    @property
    def dashes(self) -> str:
        """``stroke-dasharray`` of its lines; empty for solid ones."""
        return _DASHES[self.style.dash]

    def with_next_dash(self) -> Mark:
        """The same colour and marker with other dashes."""
        dash = DASHES[(DASHES.index(self.style.dash) + 1) % len(DASHES)]
        return dataclasses.replace(self, style=dataclasses.replace(self.style, dash=dash))


def marks_of(
    editors: Mapping[str, str], groups: Mapping[str, str] | None = None
) -> dict[str, Mark]:
    """A mark for each name on a page, no two the same.

    Args:
        editors: Names, in the order of the page, with the editor of each.
        groups: As for :func:`~editkit.registry.styles.styles_of`.
    """
    styles = styles_of(editors, groups)
    colors = list(dict.fromkeys(style.color for style in styles.values()))
    return {
        name: Mark(f"color-{colors.index(style.color)}", style) for name, style in styles.items()
    }


def rules(marks: Mapping[str, Mark], *, dark: bool) -> Markup:
    """CSS that gives each class its colour, for one theme."""
    colors = {mark.css: mark.style.dark if dark else mark.style.color for mark in marks.values()}
    return Markup("\n").join(
        Markup(".{} {{ --mark: {}; }}").format(css, color) for css, color in colors.items()
    )


def marker(mark: Mark, x: float, y: float) -> Markup:
    """The mark as an SVG shape with its middle at a point."""
    if mark.style.marker == "o":
        return Markup('<circle cx="{:g}" cy="{:g}" r="4.8"/>').format(x, y)
    corners = _CORNERS[mark.style.marker]
    points = " ".join(f"{x + dx:.5g},{y + dy:.5g}" for dx, dy in corners)
    return Markup('<polygon points="{}"/>').format(points)


def swatch(mark: Mark) -> Markup:
    """The mark on a piece of its line, to stand before a name; screen readers skip it."""
    line = Markup('<line x1="0" y1="8" x2="30" y2="8" stroke-dasharray="{}"/>').format(mark.dashes)
    return Markup(
        '<svg class="swatch {}" viewBox="0 0 30 16" width="30" height="16" aria-hidden="true">'
        "{}{}</svg>"
    ).format(mark.css, line, marker(mark, 15, 8))
