"""Which values of a table stand out: the best ones, and clear failures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from editkit.benchmark.aggregate import Estimate
from editkit.data_types import Failure, Score
from editkit.editing.outcomes import BASELINE as BASELINE

Estimates = Mapping[str, Estimate]


def best_of(score: Score, competitors: Iterable[Estimates]) -> float | None:
    """The best mean of a score; None where fewer than two compete or neither end is better."""
    means = [estimates[score.key].mean for estimates in competitors if score.key in estimates]
    if len(means) < 2 or score.higher_is_better is None:
        return None
    return max(means) if score.higher_is_better else min(means)


def is_failure(score: Score, estimates: Estimates, unedited: Estimates | None) -> bool:
    """Whether a mean's interval lies wholly below the bound that the score sets."""
    if score.failure is None or score.key not in estimates:
        return False
    bound = _bound(score, score.failure, estimates, unedited or {})
    return bound is not None and estimates[score.key].ci_high < bound


def _bound(score: Score, failure: Failure, own: Estimates, unedited: Estimates) -> float | None:
    reference = own.get(failure.of) if failure.of else unedited.get(score.key)
    bounds = [] if reference is None else [failure.share * reference.mean]
    if failure.floor is not None:
        bounds.append(failure.floor)
    return max(bounds, default=None)


def rules(scores: Sequence[Score]) -> list[str]:
    """What counts as a clear failure, one sentence for each kind of it."""
    labels = {score.key: score.label for score in scores}
    told: dict[str, list[str]] = {}
    for score in scores:
        if score.label and (failure := score.failure):
            of = labels.get(failure.of) or failure.of
            reference = f"the editor's own {of}" if failure.of else "the unedited model's"
            floor = "" if failure.floor is None else f" or below {score.scale * failure.floor:g}"
            told.setdefault(failure.name, []).append(
                f"{score.label} below {100 * failure.share:.0f}% of {reference}{floor}"
            )
    return [f"{name} fails with {', or '.join(bounds)}" for name, bounds in told.items()]
