from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit import Score
from editkit.benchmark.aggregate import (
    FEWEST,
    harmonic_mean,
    mean_with_interval,
    metrics_of,
    summary_score,
    times_of,
)
from editkit.benchmark.metric_answers import BadScores, Collected, collect
from editkit.results import Row

fractions = st.just(0.0) | st.floats(min_value=1e-9, max_value=1)
SCORES = (Score("a/score", "A", summary=True), Score("b/score", "B", summary=True), Score("c", "C"))


def row(case_id: int, **scores: float) -> Row:
    keys = {"a": "a/score", "b": "b/score", "c": "c"}
    return Row(case_id, "done", {keys[key]: value for key, value in scores.items()})


def test_the_interval_is_that_of_the_paper() -> None:
    estimate = mean_with_interval([0.0, 1.0, 1.0, 1.0] * 4).by_paper
    half = 1.96 * math.sqrt(0.1875) / 4
    assert estimate.mean == 0.75
    assert estimate.n == 16
    assert estimate.ci_low == pytest.approx(0.75 - half)
    assert estimate.half_width == pytest.approx(half)


@given(st.lists(fractions, min_size=1, max_size=50))
def test_a_mean_is_inside_its_interval_and_the_range_of_values(values: list[float]) -> None:
    estimate = mean_with_interval(values, (0.0, 1.0))
    assert (estimate.half_width is None) == (len(values) < FEWEST)
    if estimate.half_width is not None:
        assert 0 <= estimate.ci_low <= estimate.mean <= estimate.ci_high <= 1
    assert min(values) - 1e-9 <= estimate.mean <= max(values) + 1e-9


@given(st.lists(fractions, min_size=1, max_size=5))
def test_the_harmonic_mean_is_between_the_minimum_and_the_mean(values: list[float]) -> None:
    mean = harmonic_mean(values)
    if min(values) == 0:
        assert mean == 0
    else:
        assert min(values) * (1 - 1e-9) <= mean <= sum(values) / len(values) * (1 + 1e-9)


def test_the_harmonic_mean_is_zero_without_values_or_with_a_zero() -> None:
    assert harmonic_mean([]) == harmonic_mean([0.0, 1.0]) == harmonic_mean([-0.1, 1.0]) == 0


@given(st.lists(st.tuples(fractions, fractions), min_size=1, max_size=20))
def test_the_summary_is_a_repeatable_harmonic_mean(
    cases: list[tuple[float, float]],
) -> None:
    columns = [list(column) for column in zip(*cases, strict=True)]
    estimate = summary_score(columns)
    means = [sum(column) / len(column) for column in columns]
    assert estimate.mean == pytest.approx(harmonic_mean(means))
    if len(cases) >= FEWEST:
        assert 0 <= estimate.ci_low <= estimate.mean <= estimate.ci_high <= 1
    assert estimate == summary_score(columns)


def test_equal_cases_have_an_interval_too() -> None:
    estimate = summary_score([[0.5] * 9, [1.0] * 9])
    assert estimate.ci_low < 0.65 < estimate.mean < 0.68 < estimate.ci_high
    assert estimate.mean == pytest.approx(2 / 3)


@given(st.permutations([row(i, a=i / 9, b=1 - i / 18, c=i) for i in range(9)]))
def test_the_order_of_rows_does_not_matter(rows: list[Row]) -> None:
    assert metrics_of(rows, SCORES) == metrics_of(sorted(rows, key=lambda r: r.case_id), SCORES)


def test_failed_rows_and_missing_scores_do_not_count() -> None:
    rows = [row(1, a=1.0, b=0.5), row(2, a=0.0), Row(3, "failed", error="no")]
    means = metrics_of(rows, SCORES)
    assert list(means) == ["a/score", "b/score", "summary/score"]
    assert (means["a/score"].n, means["b/score"].n) == (2, 1)
    assert means["summary/score"].mean == pytest.approx(0.5)


def test_the_summary_needs_all_of_its_scores() -> None:
    assert "summary/score" not in metrics_of([row(1, a=1.0)], SCORES)
    assert metrics_of([], SCORES) == {}


def test_times_are_means_and_preparation_is_a_maximum() -> None:
    rows = [Row(i, "done", times={"edit_s": s, "prepare_s": s}) for i, s in ((1, 1.0), (2, 3.0))]
    assert times_of(rows) == {"edit_s_mean": 2.0, "prepare_s": 3.0}


def test_answers_are_split_into_scores_and_details() -> None:
    answers = [("m", {"x": 1, "xs": [1, 0.5]}), ("n", {"y": 0.25})]
    assert collect(answers) == Collected({"x": 1.0, "y": 0.25}, {"xs": [1.0, 0.5]})


def test_texts_of_several_metrics_are_kept_once() -> None:
    texts: list[Any] = ["a b", "c"]
    answers = [("m", {"x": 1, "texts": texts}), ("n", {"y": 2, "texts": [*texts]})]
    assert collect(answers) == Collected({"x": 1.0, "y": 2.0}, {}, {"texts": texts})
    with pytest.raises(BadScores, match="'n' has other texts for 'texts' than another"):
        collect([("m", {"texts": texts}), ("n", {"texts": ["a b"]})])
    for clash in (1.0, [1.0], []):
        with pytest.raises(BadScores, match="of another metric"):
            collect([("m", {"texts": texts}), ("n", {"texts": clash})])
        with pytest.raises(BadScores, match="of another metric"):
            collect([("m", {"texts": clash}), ("n", {"texts": texts})])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([("m", {"x": math.nan})], "not finite"),
        ([("m", {"xs": [1.0, math.inf]})], "not finite"),
        ([("m", {"x": "high"})], "expected a number"),
        ([("m", {"x": 1.0}), ("n", {"x": 1.0})], "of another metric"),
    ],
)
def test_unusable_answers_are_refused(
    answers: list[tuple[str, dict[str, float]]], message: str
) -> None:
    with pytest.raises(BadScores, match=message):
        collect(answers)
