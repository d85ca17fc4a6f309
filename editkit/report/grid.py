"""Tables without a form: what stands in them, to be written as text, Markdown, LaTeX or HTML."""

from __future__ import annotations

import dataclasses

from editkit.benchmark.aggregate import Estimate
from editkit.data_types import Score

__all__ = ["Entry", "Grid", "Line", "number"]

_LONG = 1e5


@dataclasses.dataclass(frozen=True)
class Entry:
    """One place of a table.

    Attributes:
        text: A word or a number.
        half: Half the width of a number's interval.
        bold: Whether it stands out.
        failed: Whether it is marked as a clear failure.
        level: Where it lies between 0 and 1, for a shade; None for none.
    """

    text: str
    half: str = ""
    bold: bool = False
    failed: bool = False
    level: float | None = None

    @property
    def plain(self) -> str:
        """Number and interval: ``94.2 ±1.7``."""
        return f"{self.text} ±{self.half}" if self.half else self.text


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a table; ``faint`` where it is not of our own making."""

    entries: tuple[Entry, ...]
    faint: bool = False


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table: the first column is text, all others are numbers.

    Attributes:
        name: A word for it: ``scores``.
        title: A line above it.
        head: The columns' heads.
        lines: The lines.
        notes: Sentences below it.
        warnings: What a reader must know who looks at its numbers; directly below it.
    """

    name: str
    title: str
    head: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def number(
    score: Score,
    estimate: Estimate | None,
    *,
    signed: bool | None = None,
    bold: bool = False,
    failed: bool = False,
    shaded: bool = False,
) -> Entry:
    """A mean with its interval, as tables show it.

    Args:
        score: The score that it is a mean of.
        estimate: The mean; None where there is none.
        signed: Whether its sign is always shown; by default where the score may be negative.
        bold: Whether it stands out.
        failed: Whether it is a clear failure.
        shaded: Whether it may have a shade.
    """
    if estimate is None:
        return Entry("-")
    mean = round(score.scale * estimate.mean, 1) + 0.0  # no minus before a zero
    sign = "+" if (score.signed if signed is None else signed) else ""
    half = _short(score.scale * estimate.half_width) if estimate.n else ""
    level = min(max(estimate.mean, 0.0), 1.0) if shaded else None
    return Entry(_short(mean, sign), half, bold, failed, level)


def _short(value: float, sign: str = "") -> str:
    """One digit after the point; of numbers beyond all measure, two digits and a power of ten."""
    return f"{value:{sign}.1f}" if abs(value) < _LONG else f"{value:{sign}.1e}"
