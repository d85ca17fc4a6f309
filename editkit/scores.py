"""What a metric says about the numbers that it gives: their names, and how tables show them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Failure:
    """When reports mark a mean as a clear failure: its 95% interval lies wholly below a bound.

    The bound is the larger one of ``floor`` and of a share of another mean: the same editor's mean
    of the score ``of``, or the unedited model's mean of the very score where ``of`` is empty.

    Attributes:
        name: What failed: ``generalization``.
        share: The share, a fraction.
        of: Key of the score that it is a share of; empty for the unedited model's.
        floor: The least bound; None for none.
    """

    name: str
    share: float
    of: str = ""
    floor: float | None = None


@dataclasses.dataclass(frozen=True)
class Score:
    """A column that a metric produces.

    Attributes:
        key: Name in stores and MLflow: ``efficacy/score``.
        label: Column head in tables: ``ES``; empty for scores that tables leave out.
        summary: Whether it enters the summary score, the harmonic mean of such columns.
        higher_is_better: Direction; None where neither is better.
        signed: Whether it may be negative (shown with its sign).
        scale: What tables multiply it by: 100 for fractions, 1 for what is no fraction.
        failure: When reports mark it as a clear failure; None for never.
        at_edit: Whether it is measured at the edited prompt itself: 0 says that the edit is not
            there.
    """

    key: str
    label: str = ""
    summary: bool = False
    higher_is_better: bool | None = True
    signed: bool = False
    scale: float = 100.0
    failure: Failure | None = None
    at_edit: bool = False
