"""The colour of each run: bound to the editor's name, as in all figures and reports.

MLflow draws neither markers nor dashes, so runs that share a colour elsewhere have shades of it
here; the first of them has the colour itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from editkit.registry.styles import styles_of

_WHITE, _BLACK = 255, 0
_KEPT = 0.65  # share of the colour in its next shade


def run_colors(editors: Mapping[str, str]) -> dict[str, str]:
    """A colour for each run, as ``#rrggbb``; later runs do not change the colours of earlier ones.

    Args:
        editors: Labels of all runs of a benchmark, the oldest first, with the name of the editor
            of each.
    """
    drawn: Counter[str] = Counter()
    colors = {}
    for label, style in styles_of(editors).items():
        colors[label] = _shade(style.color, drawn[style.color])
        drawn[style.color] += 1
    return colors


def _shade(color: str, number: int) -> str:
    """The color itself (0), or a shade of it, in turn lighter and darker."""
    kept = _KEPT ** ((number + 1) // 2)
    other = _WHITE if number % 2 else _BLACK
    channels = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(kept * own + (1 - kept) * other):02x}" for own in channels)
