from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from editkit import Failure, Score
from editkit.benchmark.aggregate import (
    FEWEST,
    Estimate,
    by_group,
    excludes_zero,
    metrics_of,
    paired_differences,
)
from editkit.report.sections import failure_rules, is_failure
from editkit.results import Row

SCORES = (Score("a/score", "A", summary=True), Score("b/score", "B", summary=True), Score("c", "C"))
fractions = st.floats(min_value=0.01, max_value=1)
cases = st.lists(st.tuples(fractions, fractions), min_size=2, max_size=30)


def rows(values: list[tuple[float, float]], shift: float = 0.0) -> list[Row]:
    return [
        Row(i, "done", {"a/score": a * (1 - shift), "b/score": b * (1 - shift)})
        for i, (a, b) in enumerate(values)
    ]


def test_differences_are_over_common_records() -> None:
    ours, theirs = (0.9, 0.5, 0.9, 0.5, 0.7), (0.4, 0.2, 0.4, 0.2, 0.3)
    first = [Row(i, "done", {"c": value}) for i, value in enumerate((*ours, 1.0))]
    second = [Row(i, "done", {"c": value}) for i, value in enumerate(theirs)]
    second.append(Row(5, "failed", error="no"))
    differences = paired_differences(first, second, SCORES)
    assert list(differences) == ["c"]
    assert differences["c"].n == 5
    assert differences["c"].mean == pytest.approx(0.4)
    paper = differences["c"].by_paper
    assert paper.half_width == pytest.approx(1.96 * (0.04 / 5) ** 0.5 / 5**0.5)


@given(cases)
def test_nothing_differs_from_itself(values: list[tuple[float, float]]) -> None:
    differences = paired_differences(rows(values), rows(values), SCORES)
    for key in ("summary/score", "a/score", "b/score"):
        assert differences[key].mean == 0
        if len(values) >= FEWEST:
            assert -1 < differences[key].ci_low < 0 < differences[key].ci_high < 1
        assert not excludes_zero(differences[key])


@given(cases, st.floats(min_value=0, max_value=0.5))
@example([(1.0, 1.0)] * 5, 0.0)
@example([(0.2, 0.9)] * 6, 0.1)
def test_differences_turn_round_and_are_those_of_the_means(
    values: list[tuple[float, float]], shift: float
) -> None:
    ours, theirs = rows(values), rows(values[::-1], shift)
    there = paired_differences(ours, theirs, SCORES)
    back = paired_differences(theirs, ours, SCORES)
    means = [metrics_of(side, SCORES) for side in (ours, theirs)]
    for key, difference in there.items():
        assert difference.mean == pytest.approx(means[0][key].mean - means[1][key].mean)
        assert difference.mean == pytest.approx(-back[key].mean)
        if len(values) >= FEWEST:
            assert difference.ci_low == pytest.approx(-back[key].ci_high, abs=1e-9)
            assert difference.ci_low <= difference.mean <= difference.ci_high


def test_the_difficulty_of_records_cancels_out() -> None:
    values = [(0.1 + 0.8 * (i % 2), 0.2 + 0.6 * (i % 3 == 0)) for i in range(40)]
    ours, theirs = rows(values), rows(values, 0.05)
    differences = paired_differences(ours, theirs, SCORES)
    alone = [metrics_of(side, SCORES) for side in (ours, theirs)]
    for key in ("summary/score", "a/score"):
        assert excludes_zero(differences[key])
        assert differences[key].half_width < 0.2 * alone[0][key].half_width
        assert alone[0][key].ci_low < alone[1][key].ci_high  # their own intervals overlap


def test_a_score_that_one_side_lacks_does_not_enter_the_summary() -> None:
    first = [*rows([(0.5, 0.5)] * 4), Row(9, "done", {"a/score": 1.0, "b/score": 1.0})]
    second = [*rows([(0.5, 0.5)] * 4), Row(9, "done", {"a/score": 1.0})]
    assert paired_differences(first, second, SCORES)["summary/score"].mean == pytest.approx(0)


def test_groups_are_scored_by_themselves() -> None:
    values = [(0.2, 0.4), (0.6, 0.8), (1.0, 1.0)]
    groups = by_group(rows(values), {0: "P1", 1: "P1", 7: "P9"}, SCORES)
    assert list(groups) == ["P1"]
    assert groups["P1"] == metrics_of(rows(values)[:2], SCORES)


def at(mean: float, half: float = 0.0) -> Estimate:
    return Estimate(mean, mean - half, mean + half, 10)


OWN = Score("p", "P", failure=Failure("generalization", 0.75, of="e", floor=0.5))
OTHER = Score("n", "N", failure=Failure("specificity", 0.5))


@pytest.mark.parametrize(
    ("score", "estimates", "unedited", "fails"),
    [
        (OWN, {"p": at(0.7), "e": at(1.0)}, None, True),
        (OWN, {"p": at(0.7, 0.1), "e": at(1.0)}, None, False),  # perhaps it is not
        (OWN, {"p": at(0.6), "e": at(0.7)}, None, False),
        (OWN, {"p": at(0.4), "e": at(0.4)}, None, True),  # below the floor
        (OWN, {"e": at(1.0)}, None, False),
        (OTHER, {"n": at(0.4)}, {"n": at(0.9)}, True),
        (OTHER, {"n": at(0.5)}, {"n": at(0.9)}, False),
        (OTHER, {"n": at(0.1)}, None, False),  # nothing to compare with
        (Score("x", "X"), {"x": at(0.0)}, None, False),
    ],
)
def test_a_failure_is_clear_or_none(
    score: Score,
    estimates: dict[str, Estimate],
    unedited: dict[str, Estimate] | None,
    fails: bool,
) -> None:
    assert is_failure(score, estimates, unedited) == fails


def test_rules_are_described_in_words() -> None:
    assert failure_rules([Score("e", "E"), OWN, OTHER]) == [
        "generalization fails with P below 75% of the editor's own E or below 50",
        "specificity fails with N below 50% of the unedited model's",
    ]
