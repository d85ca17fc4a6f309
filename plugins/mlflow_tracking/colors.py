"""The colour of each run: bound to the editor's name, as in all figures and reports.

MLflow has no markers, so editors that share a colour elsewhere get shades of it here.
"""

from __future__ import annotations

from collections.abc import Mapping

from editkit.palette import MARKERS, Style
from editkit.registry.plugins import default_registry
from editkit.registry.styles import styles_of

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_KEPT = 0.65  # of a colour in the next shade of it
_MOST_SHADES = 4


def run_colors(editors: Mapping[str, str]) -> dict[str, str]:
    """A colour for each run.

    Args:
        editors: Labels of all runs of a benchmark, with the name of the editor of each.

    Returns:
        Colours as ``#rrggbb``. Other runs of an editor are lighter than its first one.
    """
    installed = default_registry().names("editor")
    styles = styles_of({name: name for name in sorted({*installed, *editors.values()})})
    colors, runs = {}, dict.fromkeys(editors.values(), 0)
    for label, editor in editors.items():
        colors[label] = _shade(_own_color(editor, styles), _WHITE, runs[editor])
        runs[editor] += 1
    return colors


def _own_color(editor: str, styles: Mapping[str, Style]) -> str:
    """The editor's colour, darker if another one with an earlier marker has the same."""
    style = styles[editor]
    sharing = sorted(
        {MARKERS.index(other.marker) for other in styles.values() if other.color == style.color}
    )
    return _shade(style.color, _BLACK, sharing.index(MARKERS.index(style.marker)))


def _shade(color: str, towards: tuple[int, int, int], number: int) -> str:
    """Shade of a colour, ``#rrggbb``; number 0 is the colour itself."""
    kept = _KEPT ** min(number, _MOST_SHADES)
    own = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    mixed = (
        round(kept * one + (1 - kept) * other) for one, other in zip(own, towards, strict=True)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
