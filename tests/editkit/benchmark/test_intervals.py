from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit import Score
from editkit.benchmark.aggregate import (
    excludes_zero,
    mean_with_interval,
    metrics_of,
    paired_differences,
)
from editkit.benchmark.intervals import (
    FEWEST,
    Estimate,
    clustered_mean,
    student_t,
    summary_difference,
    summary_score,
)
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
    # Models v to z with 2, 1, 3, 1 and 1 facts; the mean is 3. Residuals sum to -4, 1, 3, 0 and 0
    # by model, so the variance is 5/4 * (16 + 1 + 9) / 8^2.
    estimate = clustered_mean([1, 1, 4, 4, 5, 3, 3, 3], "vvwxxxyz")
    half = 2.77644511 * math.sqrt(1.25 * 26) / 8
    assert (estimate.mean, estimate.n) == (3, 8)
    assert estimate.interval == pytest.approx((3 - half, 3 + half))
    assert (estimate.paper_ci_low, estimate.paper_ci_high) == (None, None)


def test_models_of_one_fact_each_have_the_interval_of_students_t() -> None:
    values = [0.0, 1.0, 1.0, 0.5, 0.2]
    half = student_t(4) * float(np.std(values, ddof=1)) / math.sqrt(5)
    assert clustered_mean(values, range(5)).half_width == pytest.approx(half)


@pytest.mark.parametrize("models", [1, 4])
def test_few_models_have_no_interval_however_many_facts_they_have(models: int) -> None:
    rows = [
        Row(i, "done", {"a": i % 2, "b": 1.0}, group=i % models, place=i + 1) for i in range(40)
    ]
    means = metrics_of(Sample({0: rows}, shared=True), SCORES)
    assert means["a"] == Estimate(0.5, None, None, 40)
    assert means["summary/score"] == Estimate(2 / 3, None, None, 40)
    difference = paired_differences(Sample({0: rows}, shared=True), Sample({0: rows}, True), SCORES)
    assert (difference["a"].mean, difference["a"].half_width, difference["a"].p) == (0, None, None)
    assert not excludes_zero(Estimate(0.9, None, None, 40))
    assert Estimate(0.9, None, None, 40).printed("+.1f", 100) == "+90.0"


def test_a_score_that_only_one_model_has_gets_no_interval_and_none_for_the_summary() -> None:
    one = [
        Row(i, "done", {"a": 0.5 + i / 30, "b": 1.0} if i < 3 else {"a": 0.1}, group=i // 3)
        for i in range(15)
    ]
    means = metrics_of(Sample({0: one}, shared=True), SCORES)
    assert means["a"].half_width is not None
    assert means["b"].half_width is None
    assert means["summary/score"].half_width is None


def test_seeds_are_models_of_their_own_and_pair_with_themselves() -> None:
    def rows(shift: float) -> Sample:
        """Five orders of two facts; orders differ a lot, facts and editors a little."""
        orders = {
            seed: [Row(i, "done", {"a": seed / 8 + i / 100 + shift}, place=i + 1) for i in (0, 1)]
            for seed in range(5)
        }
        return Sample(orders, shared=True)

    ours = metrics_of(rows(0.05), SCORES)["a"]
    assert (ours.n, rows(0).n_models) == (10, 5)
    # Residuals sum to -0.5, -0.25, 0, 0.25 and 0.5 by order.
    ends = clustered_mean(
        [seed / 8 + i / 100 + 0.05 for seed in range(5) for i in (0, 1)],
        [seed for seed in range(5) for _ in (0, 1)],
    )
    assert ends.half_width == pytest.approx(student_t(4) * math.sqrt(1.25 * 0.625) / 10)
    assert ours.half_width == pytest.approx(ends.half_width, rel=0.2)  # within 0 and 1
    difference = paired_differences(rows(0.05), rows(0.0), SCORES)["a"]
    assert difference.mean == pytest.approx(0.05)
    assert not excludes_zero(difference)  # five equal numbers show no more


def test_shared_models_do_not_change_means() -> None:
    rows = [Row(i, "done", {"a": (i % 5) / 5, "b": (i % 3) / 3}, group=i // 4) for i in range(20)]
    shared, own = (metrics_of(Sample({0: rows}, shared), SCORES) for shared in (True, False))
    assert {key: each.mean for key, each in shared.items()} == {k: e.mean for k, e in own.items()}
    assert own == metrics_of(rows, SCORES)
    assert own["a"] == mean_with_interval([row.scores["a"] for row in rows], (0.0, 1.0))


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
    assert 0.92 <= covered / runs <= 0.99
    assert naively / runs < 0.65


# ---------------------------------------------------------------- within the bounds

FRACTION = (0.0, 1.0)


@pytest.mark.parametrize(
    (
        "hits",
        "n",
        "low",
        "high",
    ),
    [
        (20, 20, 0.83887, 1.0),
        (0, 20, 0.0, 0.16113),
        (5, 5, 0.56551, 1.0),
        (81, 263, 0.25528, 0.36620),
    ],
)
def test_numbers_that_are_0_or_1_have_wilsons_interval(
    hits: int, n: int, low: float, high: float
) -> None:
    estimate = mean_with_interval([1.0] * hits + [0.0] * (n - hits), FRACTION)
    assert estimate.interval == pytest.approx((low, high), abs=1e-4)
    percent = mean_with_interval([100.0] * hits + [0.0] * (n - hits), (0.0, 100.0))
    assert percent.interval == pytest.approx((100 * low, 100 * high), abs=1e-2)


@given(st.lists(st.floats(-1, 1), min_size=FEWEST, max_size=40))
def test_intervals_stay_within_the_bounds_and_have_a_width(values: list[float]) -> None:
    for numbers, bounds in (
        (values, (-1.0, 1.0)),
        ([abs(value) for value in values], FRACTION),
    ):
        for estimate in (
            mean_with_interval(numbers, bounds),
            clustered_mean([*numbers, *numbers], [*range(len(numbers))] * 2, bounds),
        ):
            low, high = estimate.interval
            assert bounds[0] <= low <= estimate.mean <= high <= bounds[1]
            assert high > low


@given(st.lists(st.floats(0.01, 100), min_size=FEWEST, max_size=40))
def test_a_single_bound_holds_too(values: list[float]) -> None:
    estimate = mean_with_interval(values, (0.0, None))
    mirrored = mean_with_interval([-value for value in values], (None, 0.0))
    if max(values) - min(values) > 1e-6:
        assert 0 < estimate.ci_low < estimate.mean < estimate.ci_high
        assert mirrored.interval == pytest.approx((-estimate.ci_high, -estimate.ci_low))


def test_equal_numbers_without_two_bounds_have_no_interval() -> None:
    for bounds in ((None, None), (0.0, None), (None, 1.0)):
        assert mean_with_interval([0.1] * 20, bounds).half_width is None
    assert mean_with_interval([0.0] * 20, (0.0, None)).half_width is None


def test_a_bound_that_the_numbers_violate_does_not_count() -> None:
    values = [0.5, 3.0, 4.5, 6.0, 7.5]
    assert mean_with_interval(values, FRACTION) == mean_with_interval(values, (0.0, None))


def test_fewer_than_five_numbers_have_no_interval_by_any_formula() -> None:
    few = mean_with_interval([1.0] * 4, FRACTION)
    assert few == Estimate(1.0, None, None, 4)
    assert few.by_paper == few
    assert summary_score([[1.0] * 4, [0.5, 1.0, 0.0, 1.0]]).half_width is None
    assert mean_with_interval([1.0] * 5, FRACTION).half_width is not None


def test_the_papers_formula_is_kept() -> None:
    values = [1.0] * 9 + [0.0]
    paper = mean_with_interval(values, FRACTION).by_paper
    half = 1.96 * 0.3 / math.sqrt(10)
    assert paper.interval == pytest.approx((0.9 - half, 0.9 + half))
    assert paper.ci_high > 1


def test_a_column_of_equal_numbers_widens_the_interval_of_the_summary() -> None:
    perfect = summary_score([[1.0] * 20] * 3)
    assert perfect.interval == pytest.approx((0.83887, 1.0), abs=1e-4)
    zero = summary_score([[1.0] * 20, [0.0] * 20])
    assert zero.ci_low == 0
    assert zero.ci_high == pytest.approx(2 / (1 + 1 / 0.16113), abs=1e-4)
    nothing = summary_score([[0.0] * 20, [0.0] * 20, [1.0] * 20])
    assert nothing.ci_high == pytest.approx(3 / (2 / 0.16113 + 1), abs=1e-4)
    apart = summary_difference([[1.0] * 20], [[0.0] * 20])
    assert (apart.mean, apart.ci_high) == (1.0, 1.0)
    assert 0.6 < apart.ci_low < 0.9


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.903, 0.937, "±1.7"),
        (0.90, 0.936, "±2.0"),  # nearly symmetric: the longer side
        (0.878, 0.938, "-4.2/+1.8"),
        (0.9197, 0.9202, "±0.0"),
        (None, None, ""),
    ],
)
def test_asymmetric_intervals_are_printed_with_both_sides(
    low: float | None, high: float | None, shown: str
) -> None:
    assert Estimate(0.92, low, high, 9).spread("{:.1f}".format, 100) == shown


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        (Estimate(0.015, 0.0, 0.032, 9), "-1.5/+1.7"),  # ±1.7 would reach below 0
        (Estimate(0.985, 0.965, 1.0, 9), "-2.0/+1.5"),
        (Estimate(0.03, 0.001, 0.065, 9), "-2.9/+3.5"),  # nor may a difference seem to contain 0
        (Estimate(0.03, -0.005, 0.065, 9), "±3.5"),
        (Estimate(1.0, 0.963, 1.0, 9), "-3.7/+0"),
    ],
)
def test_printed_intervals_do_not_leave_the_range_either(estimate: Estimate, shown: str) -> None:
    assert estimate.spread("{:.1f}".format, 100) == shown


# ---------------------------------------------------------------- coverage


def covered(values: np.ndarray, truth: float, bounds: tuple[float | None, float | None]) -> float:
    """The share of samples, one per row, with an interval that contains the truth."""
    distinct, counts = np.unique(np.sort(values, axis=1), axis=0, return_counts=True)
    inside = 0
    for row, count in zip(distinct, counts, strict=True):
        low, high = mean_with_interval(row, bounds).interval
        inside += count * (low <= truth <= high)
    return float(inside) / len(values)


@pytest.mark.parametrize("n", [5, 10, 20, 100])
@pytest.mark.parametrize("prompts", [1, 10])
def test_intervals_of_fractions_cover_the_truth(n: int, prompts: int) -> None:
    """Records with a hit, or with 10 prompts and a rate of their own."""
    random, runs = np.random.default_rng(18), 250
    shares = []
    for p in (0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99):
        rates = random.beta(p * 4, (1 - p) * 4, (runs, n)) if prompts > 1 else p
        shares.append(covered(random.binomial(prompts, rates, (runs, n)) / prompts, p, FRACTION))
    assert 0.92 <= np.mean(shares) <= 0.99
    assert min(shares) > 0.82  # Wilson's interval has such dips


def test_intervals_of_skewed_numbers_above_0_cover_the_truth() -> None:
    random = np.random.default_rng(18)
    for n, least in ((5, 0.85), (20, 0.9), (100, 0.92)):
        assert covered(random.exponential(1.0, (400, n)), 1.0, (0.0, None)) >= least


@pytest.mark.parametrize("clusters", [None, [0, 0, 1, 2, 3, 3, 4]], ids=["cases", "clusters"])
def test_resamples_do_not_depend_on_how_many_are_drawn_at_once(
    clusters: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [[0.1, 1.0, 0.4, None, 0.9, 0.2, 0.7], [1.0, 0.0, 1.0, 1.0, 0.5, None, 1.0]]
    at_once = summary_score(columns, clusters)
    monkeypatch.setattr("editkit.benchmark.intervals._DRAWS", 50)
    assert summary_score(columns, clusters) == at_once
