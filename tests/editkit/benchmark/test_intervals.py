from __future__ import annotations

import math

import numpy as np
import pytest

from editkit import Score
from editkit.benchmark.aggregate import (
    excludes_zero,
    mean_with_interval,
    metrics_of,
    paired_differences,
)
from editkit.benchmark.intervals import Estimate, clustered_mean, student_t, summary_score
from editkit.benchmark.samples import Sample
from editkit.results import Row

SCORES = (Score("a", "A", summary=True), Score("b", "B", summary=True))


@pytest.mark.parametrize(
    ("degrees", "value"),  # printed tables of Student's t, two-sided 5%
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (1000, 1.962)],
)
def test_students_t_is_that_of_printed_tables(degrees: int, value: float) -> None:
    assert student_t(degrees) == pytest.approx(value, abs=5e-4)


def test_a_clustered_interval_worked_out_on_paper() -> None:
    # Models x, y, z with 2, 1 and 3 facts; the mean is 3. Residuals sum to -4, 1 and 3 by model,
    # so the variance is 3/2 * (16 + 1 + 9) / 6^2.
    estimate = clustered_mean([1, 1, 4, 4, 5, 3], ["x", "x", "y", "z", "z", "z"])
    half = 4.30265273 * math.sqrt(1.5 * 26) / 6
    assert (estimate.mean, estimate.n) == (3, 6)
    assert estimate.interval == pytest.approx((3 - half, 3 + half))


def test_models_of_one_fact_each_have_the_interval_of_students_t() -> None:
    values = [0.0, 1.0, 1.0, 0.5]
    half = student_t(3) * float(np.std(values, ddof=1)) / 2
    assert clustered_mean(values, range(4)).half_width == pytest.approx(half)


def test_one_model_has_no_interval_however_many_facts_it_has() -> None:
    rows = [Row(i, "done", {"a": i % 2, "b": 1.0}, group=0, place=i + 1) for i in range(40)]
    means = metrics_of(Sample({0: rows}, shared=True), SCORES)
    assert means["a"] == Estimate(0.5, None, None, 40)
    assert means["summary/score"] == Estimate(2 / 3, None, None, 40)
    difference = paired_differences(Sample({0: rows}, shared=True), Sample({0: rows}, True), SCORES)
    assert difference["a"] == Estimate(0.0, None, None, 40)
    assert not excludes_zero(Estimate(0.9, None, None, 40))
    assert Estimate(0.9, None, None, 40).printed("+.1f", 100) == "+90.0"


def test_a_score_that_only_one_model_has_gets_no_interval_and_none_for_the_summary() -> None:
    rows = [Row(i, "done", {"a": 0.5, **({"b": 1.0} if i < 2 else {})}, group=i) for i in range(2)]
    rows += [Row(9, "done", {"a": 0.7}, group=2)]
    means = metrics_of(Sample({0: rows}, shared=True), SCORES)
    assert means["a"].n == 3
    assert means["a"].half_width is not None
    one = [
        Row(i, "done", {"a": 0.5 + i / 9, "b": 1.0} if i < 3 else {"a": 0.1}, group=i // 3)
        for i in range(6)
    ]
    means = metrics_of(Sample({0: one}, shared=True), SCORES)
    assert means["b"].half_width is None
    assert means["summary/score"].half_width is None


def test_seeds_are_models_of_their_own_and_pair_with_themselves() -> None:
    def rows(shift: float) -> Sample:
        """Three orders of two facts; orders differ a lot, facts and editors a little."""
        orders = {
            seed: [Row(i, "done", {"a": seed / 4 + i / 100 + shift}, place=i + 1) for i in (0, 1)]
            for seed in range(3)
        }
        return Sample(orders, shared=True)

    ours = metrics_of(rows(0.05), SCORES)["a"]
    assert (ours.n, rows(0).n_models) == (6, 3)
    # Residuals sum to -0.5, 0 and 0.5 by order.
    assert ours.half_width == pytest.approx(student_t(2) * math.sqrt(1.5 * 0.5) / 6)
    difference = paired_differences(rows(0.05), rows(0.0), SCORES)["a"]
    assert difference.mean == pytest.approx(0.05)
    assert difference.half_width == pytest.approx(0, abs=1e-9)
    assert excludes_zero(difference)


def test_shared_models_do_not_change_means() -> None:
    rows = [Row(i, "done", {"a": (i % 5) / 5, "b": (i % 3) / 3}, group=i // 4) for i in range(20)]
    shared, own = (metrics_of(Sample({0: rows}, shared), SCORES) for shared in (True, False))
    assert {key: each.mean for key, each in shared.items()} == {k: e.mean for k, e in own.items()}
    assert own == metrics_of(rows, SCORES)
    assert own["a"] == mean_with_interval([row.scores["a"] for row in rows])


@pytest.mark.parametrize("summary", [False, True])
def test_clustered_intervals_cover_the_truth_where_naive_ones_do_not(summary: bool) -> None:
    """8 models of 25 facts each; a model moves all of its facts together."""
    random, covered, naively, runs = np.random.default_rng(16), 0, 0, 120 if summary else 400
    for _ in range(runs):
        model = random.normal(0, 0.1, (8, 1))
        values = (0.5 + model + random.normal(0, 0.2, (8, 25))).ravel().tolist()
        clusters = [i // 25 for i in range(200)]
        if summary:  # the harmonic mean of a single column is its mean
            estimates = summary_score([values], clusters), summary_score([values])
        else:
            estimates = clustered_mean(values, clusters), mean_with_interval(values)
        inside = [low <= 0.5 <= high for low, high in (each.interval for each in estimates)]
        covered, naively = covered + inside[0], naively + inside[1]
    assert 0.92 <= covered / runs <= 0.98
    assert naively / runs < 0.65
