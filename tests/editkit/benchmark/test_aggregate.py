from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit import Score
from editkit.benchmark.aggregate import (
    harmonic_mean,
    mean_with_interval,
    metrics_of,
    summary_score,
    times_of,
)
from editkit.benchmark.runner import BadScores, Collected, collect
from editkit.results import Row

fractions = st.just(0.0) | st.floats(min_value=1e-9, max_value=1)
SCORES = (Score("a/score", "A", summary=True), Score("b/score", "B", summary=True), Score("c", "C"))


def row(case_id: int, **scores: float) -> Row:
    keys = {"a": "a/score", "b": "b/score", "c": "c"}
    return Row(case_id, "done", {keys[key]: value for key, value in scores.items()})


def test_the_interval_is_the_papers() -> None:
    found = mean_with_interval([0.0, 1.0, 1.0, 1.0])
    half = 1.96 * math.sqrt(0.1875) / 2
    assert found.mean == 0.75
    assert found.n == 4
    assert found.ci_low == pytest.approx(0.75 - half)
    assert found.half_width == pytest.approx(half)


@given(st.lists(fractions, min_size=1, max_size=50))
def test_a_mean_lies_in_its_interval_and_among_the_values(values: list[float]) -> None:
    found = mean_with_interval(values)
    assert found.ci_low <= found.mean <= found.ci_high
    assert min(values) - 1e-9 <= found.mean <= max(values) + 1e-9


@given(st.lists(fractions, min_size=1, max_size=5))
def test_the_harmonic_mean_lies_between_the_least_and_the_mean(values: list[float]) -> None:
    found = harmonic_mean(values)
    if min(values) == 0:
        assert found == 0
    else:
        assert min(values) * (1 - 1e-9) <= found <= sum(values) / len(values) * (1 + 1e-9)


def test_the_harmonic_mean_of_nothing_or_a_zero_is_zero() -> None:
    assert harmonic_mean([]) == harmonic_mean([0.0, 1.0]) == harmonic_mean([-0.1, 1.0]) == 0


@given(st.lists(st.tuples(fractions, fractions), min_size=1, max_size=20))
def test_the_summary_is_that_of_the_means_and_repeatable(cases: list[tuple[float, float]]) -> None:
    columns = [list(column) for column in zip(*cases, strict=True)]
    found = summary_score(columns)
    means = [sum(column) / len(column) for column in columns]
    assert found.mean == pytest.approx(harmonic_mean(means))
    assert found.ci_low <= found.mean <= found.ci_high
    assert found == summary_score(columns)


def test_equal_cases_have_no_spread() -> None:
    found = summary_score([[0.5] * 9, [1.0] * 9])
    assert found.ci_low == pytest.approx(found.ci_high)
    assert found.mean == pytest.approx(2 / 3)


@given(st.permutations([row(i, a=i / 9, b=1 - i / 18, c=i) for i in range(9)]))
def test_the_order_of_rows_does_not_matter(rows: list[Row]) -> None:
    assert metrics_of(rows, SCORES) == metrics_of(sorted(rows, key=lambda r: r.case_id), SCORES)


def test_failed_rows_and_lacking_scores_do_not_count() -> None:
    rows = [row(1, a=1.0, b=0.5), row(2, a=0.0), Row(3, "failed", error="no")]
    found = metrics_of(rows, SCORES)
    assert list(found) == ["a/score", "b/score", "summary/score"]
    assert (found["a/score"].n, found["b/score"].n) == (2, 1)
    assert found["summary/score"].mean == pytest.approx(0.5)


def test_there_is_no_summary_without_all_of_its_scores() -> None:
    assert "summary/score" not in metrics_of([row(1, a=1.0)], SCORES)
    assert metrics_of([], SCORES) == {}


def test_times_are_means_and_preparation_the_longest() -> None:
    rows = [Row(i, "done", times={"edit_s": s, "prepare_s": s}) for i, s in ((1, 1.0), (2, 3.0))]
    assert times_of(rows) == {"edit_s_mean": 2.0, "prepare_s": 3.0}


def test_answers_are_sorted_into_scores_and_details() -> None:
    answers = [("m", {"x": 1, "xs": [1, 0.5]}), ("n", {"y": 0.25})]
    assert collect(answers) == Collected({"x": 1.0, "y": 0.25}, {"xs": [1.0, 0.5]})


def test_texts_are_kept_once_however_many_metrics_give_them() -> None:
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
    ("answers", "said"),
    [
        ([("m", {"x": math.nan})], "not finite"),
        ([("m", {"xs": [1.0, math.inf]})], "not finite"),
        ([("m", {"x": "high"})], "expected a number"),
        ([("m", {"x": 1.0}), ("n", {"x": 1.0})], "of another metric"),
    ],
)
def test_unusable_answers_are_refused(
    answers: list[tuple[str, dict[str, float]]], said: str
) -> None:
    with pytest.raises(BadScores, match=said):
        collect(answers)
