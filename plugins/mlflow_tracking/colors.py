"""The colour of each run: bound to the editor's name, as in all figures and reports.

MLflow draws neither markers nor dashes, so editors that share a colour elsewhere have shades of it
here; the one with a solid line has the colour itself. Other runs of an editor have further shades.
"""

from __future__ import annotations

from collections.abc import Mapping

from editkit.palette import DASHES, MARKERS, Style
from editkit.registry.plugins import default_registry
from editkit.registry.styles import styles_of

_WHITE, _BLACK = 255, 0
_KEPT = 0.65  # share of the colour in its next shade


def run_colors(editors: Mapping[str, str]) -> dict[str, str]:
    """A colour for each run, as ``#rrggbb``.

    Args:
        editors: Labels of all runs of a benchmark, with the name of the editor of each.
    """
    installed = default_registry().names("editor")
    styles = styles_of({name: name for name in sorted({*installed, *editors.values()})})
    colors, runs = {}, dict.fromkeys(editors.values(), 0)
    for label, editor in editors.items():
        color = styles[editor].color
        sharing = sorted(
            (name for name, style in styles.items() if style.color == color),
            key=lambda name: _rank(styles[name]),
        )
        colors[label] = _shade(color, sharing.index(editor) + len(sharing) * runs[editor])
        runs[editor] += 1
    return colors


def _rank(style: Style) -> tuple[int, int]:
    return DASHES.index(style.dash), MARKERS.index(style.marker)


def _shade(color: str, number: int) -> str:
    """The color itself (0), or a shade of it, in turn lighter and darker."""
    kept = _KEPT ** ((number + 1) // 2)
    other = _WHITE if number % 2 else _BLACK
    channels = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(kept * own + (1 - kept) * other):02x}" for own in channels)
