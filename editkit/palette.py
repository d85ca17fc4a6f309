"""Colours and markers of what figures compare, safe for colour-blind readers and for print.

A style is bound to a name, not to a place in a list: an editor looks the same in every figure, page
and chart. Styles differ in marker as well as in colour. Grey is for what was not edited.

A search chose the colours: the smallest CIEDE2000 distance between two of them is as large as
possible, with full colour vision and with each kind of colour blindness (simulation of Machado et
al. 2009), at a contrast to the page of at least 3 to 1. A test computes both numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Collection, Mapping

__all__ = [
    "COLORS",
    "DARK_COLORS",
    "DARK_PAGE",
    "DASHES",
    "GREY",
    "MARKERS",
    "Style",
    "contrast",
    "distinct_styles",
    "named_style",
    "problem_of_style",
    "series_style",
]

COLORS: Mapping[str, str] = {
    "blue": "#104386",
    "vermilion": "#EB5F09",
    "green": "#21A974",
    "lilac": "#A780DF",
    "olive": "#624E0A",
    "teal": "#017696",
    "wine": "#86254D",
    "brick": "#BD3942",
}
"""For a white page."""
GREY = "#777777"
DARK_PAGE = "#14171B"
DARK_COLORS: Mapping[str, str] = {
    COLORS["blue"]: "#4289FF",
    COLORS["vermilion"]: "#F0703A",
    COLORS["green"]: "#1EAD7C",
    COLORS["lilac"]: "#BD5AB5",
    COLORS["olive"]: "#F2C482",
    COLORS["teal"]: "#77D8FF",
    COLORS["wine"]: "#FF8ACB",
    COLORS["brick"]: "#E5484D",
    GREY: "#8A939D",
}
"""The counterpart of each colour on a dark page, :data:`DARK_PAGE`."""
MARKERS = "osD^vPX<>*"
"""In matplotlib's notation: circle, square, diamond, triangles, plus, cross and star."""
DASHES = ("-", "--", "-.", ":")
_HATCHES = dict(
    zip(MARKERS, ("", "//", "\\\\", "..", "xx", "++", "--", "||", "oo", "**"), strict=True)
)
_COLOR = re.compile(r"#[0-9A-Fa-f]{6}")
_PAIRS = len(COLORS) * len(MARKERS)
_LEAST_CONTRAST = 4.5
_GREYEST = 24  # difference of the largest and the smallest channel, of 255


@dataclasses.dataclass(frozen=True)
class Style:
    """How one thing is drawn.

    Attributes:
        color: ``#RRGGBB``, on a white page.
        marker: One of :data:`MARKERS`.
        dash: One of :data:`DASHES`.
    """

    color: str
    marker: str
    dash: str = "-"

    @property
    def dark(self) -> str:
        """The colour on a dark page: its counterpart or, for other colours, one that is light
        enough."""
        return DARK_COLORS.get(self.color.upper()) or _lightened(self.color)

    @property
    def hatch(self) -> str:
        """Hatch of its bars, in matplotlib's notation; markers have a hatch each."""
        return _HATCHES[self.marker]


def problem_of_style(style: Style, *, may_be_grey: bool = False) -> str | None:
    """What is wrong with a style, as ``FIELD VALUE, expected ...``; None if nothing is."""
    if not isinstance(style.color, str) or not _COLOR.fullmatch(style.color):
        return f"color {style.color!r:.40}, expected '#RRGGBB'"
    if not may_be_grey and max(_channels(style.color)) - min(_channels(style.color)) < _GREYEST:
        return f"color {style.color!r}, expected a colour: grey is for the unedited model"
    if style.marker not in tuple(MARKERS):
        return f"marker {style.marker!r:.40}, expected one of {' '.join(MARKERS)}"
    if style.dash not in DASHES:
        return f"dash {style.dash!r:.40}, expected one of {' '.join(DASHES)}"
    return None


def series_style(number: int) -> Style:
    """The style of a series without a name of its own, numbered from 0; repeats after 80."""
    colors = tuple(COLORS.values())
    number %= _PAIRS
    turn = number // (_PAIRS // 2)  # the two lengths share the factor 2
    return Style(
        colors[number % len(colors)],
        MARKERS[(number + turn) % len(MARKERS)],
        DASHES[number % len(DASHES)],
    )


def named_style(name: str, reserved: Collection[Style] = ()) -> Style:
    """The style that a name picks, the same in every figure.

    Args:
        name: The name.
        reserved: Styles of other things; their pairs of colour and marker are not picked.
    """
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    choices = [series_style(first + i) for i in range(_PAIRS)]
    used = {(style.color, style.marker) for style in reserved}
    free = (style for style in choices if (style.color, style.marker) not in used)
    return next(free, choices[0])


def distinct_styles(
    wanted: Mapping[str, Style | None],
    *,
    reserved: Collection[Style] = (),
    groups: Mapping[str, str] | None = None,
) -> dict[str, Style]:
    """A style for each label, no two with the same colour and marker.

    Args:
        wanted: Labels, in the order in which they are drawn, with the style that each has
            elsewhere; None if nothing is bound to it: then its name picks one.
        reserved: Styles of things that are not drawn; only labels that want them have them.
        groups: What labels that share a style have in common, by label. Each group has one colour
            where that of the style has too few markers for all; None: labels are not grouped.

    Returns:
        The wanted styles. Of labels that share one, the first keeps it and the others have its
        colour, or their group's, with other markers and dashes. The first 80 labels are distinct,
        less one for each reserved style.
    """
    styles: dict[str, Style] = {}
    used: set[tuple[str, str]] = set()
    kept = {_key(style) for style in reserved}
    colors = _colors_of_groups(wanted, kept, groups or {})

    def give(label: str, style: Style) -> None:
        styles[label] = style
        used.add((style.color, style.marker))

    for label, style in wanted.items():
        if style is not None and (style.color, style.marker) not in used:
            give(label, style)
    for label, style in wanted.items():
        if style is not None and label not in styles:
            color = colors.get(label, style.color)
            n = sum(other.color == color for other in styles.values())
            variants = _variants(style, color, n)
            give(label, next((v for v in variants if _key(v) not in used | kept), style))
    for label in sorted(wanted.keys() - styles.keys()):
        give(label, named_style(label, (*styles.values(), *reserved)))
    return {label: styles[label] for label in wanted}


def contrast(color: str, page: str = "#FFFFFF") -> float:
    """Contrast of two colours, from 1 to 21 (WCAG 2)."""
    darker, lighter = sorted((_luminance(color), _luminance(page)))
    return (lighter + 0.05) / (darker + 0.05)


def _key(style: Style) -> tuple[str, str]:
    return style.color, style.marker


def _colors_of_groups(
    wanted: Mapping[str, Style | None],
    reserved: Collection[tuple[str, str]],
    groups: Mapping[str, str],
) -> dict[str, str]:
    """The colour of each grouped label whose style has too few markers for all that want it."""
    taken = {*reserved, *(_key(style) for style in wanted.values() if style is not None)}
    free = {color: sum((color, m) not in taken for m in MARKERS) for color in COLORS.values()}
    colors: dict[str, str] = {}
    for shared in dict.fromkeys(style for style in wanted.values() if style is not None):
        labels = [label for label in groups if wanted.get(label) == shared]
        if len(labels) <= free.get(shared.color, len(MARKERS)) + 1:
            continue
        sizes = Counter(groups[label] for label in labels)
        roomy = [color for color, n in free.items() if n >= max(sizes.values())]
        others = [color for color in roomy or free if color != shared.color]
        order = dict(zip(sizes, itertools.cycle([shared.color, *others])))
        colors |= {label: order[groups[label]] for label in labels}
    return colors


def _variants(style: Style, color: str, n: int) -> list[Style]:
    """A colour with other markers, and the dashes of its line ``n``; then all other styles."""
    at, dash = MARKERS.index(style.marker), DASHES.index(style.dash)
    return [
        Style(color, MARKERS[(at + i) % len(MARKERS)], DASHES[(dash + n) % len(DASHES)])
        for i in range(1, len(MARKERS) + 1)
    ] + [series_style(i) for i in range(_PAIRS)]


def _channels(color: str) -> tuple[int, int, int]:
    """Red, green and blue, from 0 to 255."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _luminance(color: str) -> float:
    """Relative luminance, from 0 to 1 (WCAG 2)."""
    shares = (channel / 255 for channel in _channels(color))
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _lightened(color: str) -> str:
    """The colour, mixed with as much white as a dark page needs."""
    for step in range(0, 21):
        mixed = (round(c + (255 - c) * step / 20) for c in _channels(color))
        candidate = "#{:02X}{:02X}{:02X}".format(*mixed)
        if contrast(candidate, DARK_PAGE) >= _LEAST_CONTRAST:
            break
    return candidate
