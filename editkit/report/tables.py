"""Tables without a format; text, Markdown, LaTeX and HTML are written from them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from editkit.benchmark.aggregate import Estimate
from editkit.data_types import Score
from editkit.report.labels import format_records, format_seconds

__all__ = ["CELL_COLUMNS", "Entry", "Line", "Table", "printed", "score_entry"]

_LONG = 1e5
_MOST_DECIMALS = 6
_ROUNDING = 1e-9  # of means of equal numbers
_LEAST_SHARE = 0.005  # of a number times 100: a smaller interval has no meaning there

CELL_COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "s/edit": lambda entry: format_seconds(entry["time"].get("edit_s_mean")),
    "records": lambda entry: format_records(entry["records"]),
}
"""The columns after the scores, in every table and in MLflow: how each one is printed from a cell's
entry in the ``--json`` document, by column head."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of a table: a text or a number.

    Attributes:
        text: The text, or the number as printed.
        spread: The number's 95% interval as printed: ``±1.7``, ``-4.2/+1.8``; empty for none.
        bold: Whether it is highlighted: the best of its column, or a clear difference.
        failed: Whether it is marked as a clear failure.
        level: Strength of its background, from 0 to 1; None for no background.
        is_estimate: Whether it is a mean that has an interval if there are enough records.
        series: Name of the series that the entry is about, which pages draw a mark for; empty for
            entries that name none.
    """

    text: str
    spread: str = ""
    bold: bool = False
    failed: bool = False
    level: float | None = None
    is_estimate: bool = False
    series: str = ""

    @property
    def plain(self) -> str:
        """Number and interval: ``94.2 ±1.7``, ``97.0 -4.2/+1.8``."""
        return f"{self.text} {self.spread}" if self.spread else self.text


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a table; ``faint`` for published numbers."""

    entries: tuple[Entry, ...]
    faint: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: columns that identify a line, then numbers.

    Attributes:
        name: Identifier, used in LaTeX labels and CSS classes: ``scores``.
        title: Heading above the table.
        head: Column heads.
        lines: The lines; a table without lines is not shown.
        bold: What bold entries mean; empty if there are none.
        notes: Sentences below the table.
        warnings: Warnings about its numbers, directly below the table.
        keys: Number of leading columns that identify a line.
        scores: The score of each column that has one, by head; for legends, and to choose columns
            where the table does not fit.
    """

    name: str
    title: str
    head: tuple[str, ...]
    lines: tuple[Line, ...]
    bold: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    keys: int = 1
    scores: Mapping[str, Score] = dataclasses.field(default_factory=dict)

    @property
    def left_aligned(self) -> tuple[bool, ...]:
        """Whether each column holds texts rather than numbers."""
        columns = zip(*(line.entries for line in self.lines), strict=True)
        text = [
            not column or not all(entry.text.isdecimal() for entry in column)
            for column in (columns if self.lines else ((),) * len(self.head))
        ]
        return tuple(i == 0 or (i < self.keys and text[i]) for i in range(len(self.head)))

    def legend(self, bold_mark: str = "Bold") -> tuple[str, ...]:
        """The notes, with the meaning of bold first.

        Args:
            bold_mark: How the format marks bold entries.
        """
        return (f"{bold_mark}: {self.bold}.", *self.notes) if self.bold else self.notes


def score_entry(
    score: Score,
    estimate: Estimate | None,
    *,
    signed: bool | None = None,
    bold: bool = False,
    failed: bool = False,
    shaded: bool = False,
) -> Entry:
    """A mean with its interval.

    Args:
        score: The score; its ``scale`` multiplies the mean.
        estimate: The mean; None prints a dash.
        signed: Whether a plus sign is printed; by default if the score is signed.
        bold: Whether it is highlighted.
        failed: Whether it is marked as a clear failure.
        shaded: Whether its background shows the mean.
    """
    if estimate is None:
        return Entry("-")
    mean, sides = score.scale * estimate.mean, _sides(score, estimate)
    decimals = _decimals(mean, score.significant_digits, max(sides, default=0.0))
    form = functools.partial(_fixed, decimals=decimals)
    sign = "+" if (score.signed if signed is None else signed) else ""

    def side(value: float) -> str:
        """A side of the interval; one that rounds to 0 at the mean's digits has one of its own."""
        text = form(value)
        vanishes = float(text) == 0 and value > _least_visible(mean, score.significant_digits)
        return printed(float(f"{value:.0e}"), digits=1) if vanishes else text

    spread = estimate.spread(side, score.scale) if estimate.n else ""
    level = min(max(estimate.mean, 0.0), 1.0) if shaded else None
    return Entry(form(mean, sign), spread, bold, failed, level, is_estimate=bool(estimate.n))


def printed(value: float, sign: str = "", *, digits: int | None = None) -> str:
    """A number in a table: one decimal, more for small numbers; scientific from 100,000.

    Args:
        value: The number, with its scale.
        sign: ``+`` prints a plus sign.
        digits: Significant digits of small numbers, :attr:`Score.significant_digits`; None: one
            decimal. Numbers that need more than six decimals are scientific.
    """
    return _fixed(value, sign, decimals=_decimals(value, digits))


def _sides(score: Score, estimate: Estimate) -> tuple[float, ...]:
    """How far the 95% interval extends below and above the mean, with the score's scale."""
    if not estimate.n or estimate.half_width is None:
        return ()
    low, high = estimate.interval
    return score.scale * (estimate.mean - low), score.scale * (high - estimate.mean)


def _decimals(value: float, digits: int | None, half_width: float = 0.0) -> int:
    """One decimal; more for ``digits`` significant ones, or for one digit of the interval."""
    decimals = 1
    if digits is not None and value and math.isfinite(value):
        decimals = max(1, digits - 1 - math.floor(math.log10(abs(value))))
    if _least_visible(value, digits) < half_width < 0.5 * 10**-decimals:
        decimals = min(-int(f"{half_width:e}".partition("e")[2]), _MOST_DECIMALS)
    return decimals


def _least_visible(value: float, digits: int | None) -> float:
    """The half width from which an interval is printed as more than 0."""
    return _LEAST_SHARE if digits is None else _ROUNDING * max(1.0, abs(value))


def _fixed(value: float, sign: str = "", *, decimals: int) -> str:
    if abs(value) >= _LONG or decimals > _MOST_DECIMALS:
        return f"{value:{sign}.1e}"
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"  # turns -0.0 into 0.0
