from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test, ttest_1samp

from editkit import Score
from editkit.benchmark.aggregate import corrected, paired_differences
from editkit.benchmark.intervals import Estimate
from editkit.benchmark.samples import Sample
from editkit.benchmark.significance import (
    Difference,
    compared,
    holm,
    paired_test,
    records_needed,
    summary_test,
)
from editkit.results import Row

SCORES = (Score("a", "A", summary=True), Score("b", "B", summary=True))


def difference(p: float | None, effect: float | None = 0.5) -> Difference:
    return Difference(0.1, 0.0, 0.2, 50, p=p, p_corrected=p, effect=effect)


# ---------------------------------------------------------------- the test


def test_a_permutation_test_worked_out_on_paper() -> None:
    # Of 2^6 sign patterns of 1, 2, 4, 8, 16, 32, only those of equal signs reach the sum 63.
    assert paired_test([1, 2, 4, 8, 16, 32]).p == 2 / 64
    # With 1 negative, also the sums 63 and -63 and -61 reach 61.
    assert paired_test([-1, 2, 4, 8, 16, 32]).p == 4 / 64


def test_small_samples_are_exact_and_large_ones_agree_with_a_library() -> None:
    random = np.random.default_rng(3)
    few, many = random.normal(0.5, 1, 12), random.normal(0.25, 1, 60)
    library = permutation_test((few,), np.mean, permutation_type="samples", n_resamples=10**6)
    assert paired_test(few).p == pytest.approx(library.pvalue)
    assert paired_test(many).p == pytest.approx(ttest_1samp(many, 0).pvalue, abs=0.01)
    more = random.normal(0.05, 1, 2000)
    assert paired_test(more).p == pytest.approx(ttest_1samp(more, 0).pvalue)
    assert paired_test(many) == paired_test(many)  # the patterns have a fixed seed


@pytest.mark.parametrize(("better", "worse"), [(12, 3), (0, 6), (40, 60), (5, 5)])
def test_scores_of_0_and_1_have_mcnemars_exact_test(better: int, worse: int) -> None:
    test = paired_test([1.0] * better + [-1.0] * worse + [0.0] * 30)
    assert test.p == pytest.approx(binomtest(better, better + worse).pvalue)


def test_editors_that_never_differ_have_a_p_value_of_1_and_no_effect() -> None:
    for values in ([0.0] * 20, [1e-12, -1e-12] * 10):
        test = paired_test(values)
        assert (test.p, test.effect) == (1.0, 0.0)
    same = [[0.5, 0.2, 0.9, 1.0, 0.1]] * 2
    assert (summary_test(same, same).p, summary_test(same, same).effect) == (1.0, 0.0)


def test_equal_differences_have_an_effect_without_bound() -> None:
    shown = compared(Estimate(0.3, None, None, 9), paired_test([0.3] * 9), [0.3] * 9)
    assert (shown.p, shown.effect, shown.needed) == (2 / 2**9, None, 6)
    assert (shown.higher, shown.lower) == (9, 0)


def test_fewer_than_five_records_or_models_have_no_test() -> None:
    assert paired_test([1.0, 2.0, 3.0, 4.0]) is None
    assert paired_test([1.0] * 40, [i % 4 for i in range(40)]) is None
    columns = [[1.0] * 4 + [None] * 4, [0.5] * 8]
    assert summary_test(columns, columns) is None


def test_facts_that_share_a_model_are_swapped_together() -> None:
    values, models = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] * 2, [*range(6)] * 2
    assert paired_test(values, models).p == paired_test([1, 2, 3, 4, 5, 6]).p == 2 / 64
    assert paired_test(values, models).units == 6
    assert paired_test(values).p < 2 / 64


def test_the_summary_of_one_score_is_tested_like_its_mean() -> None:
    random = np.random.default_rng(4)
    for n in (10, 40):
        ours, theirs = random.random(n), random.random(n)
        test, mean = summary_test([ours], [theirs]), paired_test(ours - theirs)
        assert test.p == pytest.approx(mean.p)
        assert test.effect == pytest.approx(mean.effect)


def test_the_test_of_the_summary_swaps_whole_records() -> None:
    ours = [[1.0] * 6, [0.9, 0.8, 0.7, 0.9, 0.8, 0.7]]
    theirs = [[0.5] * 6, [0.4, 0.3, 0.2, 0.4, 0.3, 0.2]]
    assert summary_test(ours, theirs).p == 2 / 64
    assert summary_test(theirs, ours).effect == -summary_test(ours, theirs).effect


@pytest.mark.parametrize("prompts", [1, 4])
def test_equally_good_editors_are_rarely_significant(prompts: int) -> None:
    random, runs = np.random.default_rng(5), 300
    ps = [
        paired_test(np.diff(random.binomial(prompts, 0.7, (2, 25)), axis=0)[0] / prompts).p
        for _ in range(runs)
    ]
    share = np.mean(np.array(ps) < 0.05)
    assert share <= 0.08
    assert prompts == 1 or share > 0.01  # it is not just too careful


# ---------------------------------------------------------------- the correction


def test_holms_procedure_on_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_corrected_p_values_keep_their_order(ps: list[float]) -> None:
    results = holm(ps)
    assert all(
        p <= result <= min(1, len(ps) * p) + 1e-12 for p, result in zip(ps, results, strict=True)
    )
    assert [results[i] for i in np.argsort(ps, kind="stable")] == sorted(results)


def test_each_score_is_a_family_of_its_own() -> None:
    lines = corrected(
        [
            {"a": difference(0.03), "b": difference(0.03)},
            {"a": difference(0.04), "b": difference(None)},
            {"a": difference(0.001)},
        ]
    )
    assert [line["a"].p_corrected for line in lines] == pytest.approx([0.06, 0.06, 0.003])
    assert [line["a"].is_significant for line in lines] == [False, False, True]
    assert lines[0]["b"].p_corrected == 0.03
    assert lines[1]["b"].p_corrected is None
    assert lines[0]["a"].needed == records_needed(0.5, 3) > lines[0]["b"].needed


# ---------------------------------------------------------------- records needed


def test_records_needed() -> None:
    assert records_needed(0.5) == records_needed(-0.5) == 34  # 33.4 in tables of Student's t
    assert records_needed(0.1) == 787
    assert records_needed(0.0) is None
    # No effect can be significant with less: 2 / 2^6 and 2 / 2^9 are below the levels.
    assert (records_needed(50.0), records_needed(None, 10)) == (6, 9)


@pytest.mark.parametrize("effect", [0.4, 0.8])
def test_the_records_needed_give_the_power(effect: float) -> None:
    random, runs = np.random.default_rng(6), 300
    n = records_needed(effect)
    hits = sum(paired_test(random.normal(effect, 1, n)).p < 0.05 for _ in range(runs))
    assert 0.73 <= hits / runs <= 0.87


def test_the_records_needed_give_the_power_of_scores_of_0_and_1() -> None:
    random, runs, gain, loss = np.random.default_rng(7), 400, 0.3, 0.1
    n = records_needed((gain - loss) / math.sqrt(gain + loss - (gain - loss) ** 2))
    chances = random.random((runs, n))
    values = (chances < gain) * 1.0 - (chances > 1 - loss)
    assert 0.7 <= np.mean([paired_test(row).p < 0.05 for row in values]) <= 0.88


# ---------------------------------------------------------------- rows


def test_differences_of_rows_come_with_their_test() -> None:
    ours = [Row(i, "done", {"a": 1.0, "b": 0.9}) for i in range(10)]
    theirs = [Row(i, "done", {"a": float(i > 2), "b": 0.9}) for i in range(10)]
    results = paired_differences(ours, theirs, SCORES)
    assert results["a"].p == 0.25
    assert (results["a"].higher, results["a"].lower) == (3, 0)
    assert results["a"].effect == pytest.approx(0.3 / math.sqrt(10 * 0.21 / 9))
    assert (results["b"].p, results["b"].needed) == (1.0, None)
    assert results["summary/score"].p == 0.25
    assert results["summary/score"].higher is None
    shared = [
        Sample({0: [dataclasses.replace(row, group=row.case_id % 2) for row in rows]}, shared=True)
        for rows in (ours, theirs)
    ]
    alone = paired_differences(*shared, SCORES)
    assert {each.p for each in alone.values()} == {None}
    assert not any(each.is_significant for each in alone.values())
