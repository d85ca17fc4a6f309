"""Two editors on the same records, and one editor by groups of records. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from editkit.benchmark.aggregate import (
    SUMMARY,
    Estimate,
    estimate,
    metrics_of,
    summary_difference,
)
from editkit.data_types import Score
from editkit.results import Row


def paired_differences(
    first: Iterable[Row], second: Iterable[Row], scores: Sequence[Score]
) -> dict[str, Estimate]:
    """``first`` minus ``second``, over the records that both have.

    The interval of a score is that of the mean of the records' differences; the interval of the
    summary score comes from a paired bootstrap. Both are narrower than what the two editors' own
    intervals suggest, because what makes a record hard for both cancels out.

    Args:
        first: Rows of one editor.
        second: Rows of another one on the same slice.
        scores: Scores to compare.

    Returns:
        By score key; scores that no record has from both are left out.
    """
    ours, theirs = _done(first), _done(second)
    cases = sorted(ours.keys() & theirs.keys())
    pairs = {
        score.key: [_pair(ours[case], theirs[case], score.key) for case in cases]
        for score in scores
    }
    found = {
        key: estimate([a - b for a, b in filter(None, both)])
        for key, both in pairs.items()
        if any(both)
    }
    wanted = [score.key for score in scores if score.summary]
    if wanted and all(key in found for key in wanted):
        sides = [
            [[pair and pair[side] for pair in pairs[key]] for key in wanted] for side in (0, 1)
        ]
        found[SUMMARY.key] = summary_difference(*sides)
    return found


def _pair(ours: Row, theirs: Row, key: str) -> tuple[float, float] | None:
    """What both say about a score of one record, if both have it."""
    if key in ours.scores and key in theirs.scores:
        return ours.scores[key], theirs.scores[key]
    return None


def is_clear(difference: Estimate) -> bool:
    """Whether the interval of a difference leaves out zero."""
    return difference.ci_low > 0 or difference.ci_high < 0


def by_group(
    rows: Sequence[Row], groups: Mapping[int, str], scores: Sequence[Score]
) -> dict[str, dict[str, Estimate]]:
    """The scores of each group of records.

    Args:
        rows: Rows of one editor.
        groups: Group of each case, such as its relation; cases without one are left out.
        scores: What :func:`~editkit.benchmark.aggregate.metrics_of` shall look at.

    Returns:
        Estimates by score key, by group, in the order of the groups' names.
    """
    members: dict[str, list[Row]] = {}
    for row in rows:
        if row.case_id in groups:
            members.setdefault(groups[row.case_id], []).append(row)
    return {group: metrics_of(members[group], scores) for group in sorted(members)}


def _done(rows: Iterable[Row]) -> dict[int, Row]:
    return {row.case_id: row for row in rows if row.status == "done"}
