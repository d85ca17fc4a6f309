"""Numbers as tables print them."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from editkit.benchmark.aggregate import Estimate, mean_with_interval
from editkit.data_types import Score
from editkit.palette import series_style
from editkit.report import html_page, svg
from editkit.report.marks import Mark
from editkit.report.tables import printed, score_entry
from editkit.results import Row


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0, 2, "0.0"),
        (0.00043, 2, "0.00043"),
        (-0.00043, 2, "-0.00043"),
        (0.000012, 2, "0.000012"),
        (0.0000012, 2, "1.2e-06"),
        (0.0512, 2, "0.051"),
        (1.00271, 4, "1.003"),
        (12.345, 2, "12.3"),
        (93.26, 3, "93.3"),
        (123456.7, 3, "1.2e+05"),
        (0.04, None, "0.0"),
        (-0.04, None, "0.0"),
        (94.25, None, "94.2"),
        (123456.7, None, "1.2e+05"),
    ],
)
def test_small_numbers_keep_their_digits(value: float, digits: int | None, text: str) -> None:
    assert printed(value, digits=digits) == text


def test_a_mean_and_its_interval_have_the_digits_of_the_score() -> None:
    estimate = mean_with_interval([0.0003, 0.0005] * 4)
    with_digits = Score("a/nats", "N", scale=1.0, digits=2)
    assert score_entry(with_digits, estimate).plain == "0.00040 ±0.00009"
    assert score_entry(with_digits, estimate, signed=True).text == "+0.00040"
    by_default = Score("a/nats", "N", scale=1.0)
    assert score_entry(by_default, estimate).plain == "0.000400 ±0.000089"
    assert score_entry(by_default, Estimate(0.048, None, None, 3)).plain == "0.0480"
    narrow = Estimate(0.9999, 0.9998, 0.9999, 5000)
    assert score_entry(Score("a/share", "A"), narrow).plain == "99.99 -0.01/+0"
    noise = Estimate(2e-8, -1e-8, 5e-8, 100)
    assert score_entry(Score("a/share", "A"), noise).plain == "0.0 ±0.0"


@pytest.mark.parametrize(
    ("estimate", "digits", "plain"),
    [
        (Estimate(1.0, 0.9998, 1.0002, 9), 4, "1.0000 ±0.0002"),
        (Estimate(1.97, 1.967, 1.973, 9), 3, "1.970 ±0.003"),
        (Estimate(1.0, 0.9, 1.0004, 9), 4, "1.000 -0.100/+0.0004"),
        (Estimate(1.0, 1.0, 1.0, 9), 4, "1.000 ±0.000"),
        (Estimate(1.0, 1.0 - 1e-15, 1.0 + 1e-15, 9), 4, "1.000 ±0.000"),
    ],
)
def test_intervals_do_not_round_to_zero(estimate: Estimate, digits: int, plain: str) -> None:
    assert score_entry(Score("a/ratio", "R", scale=1.0, digits=digits), estimate).plain == plain


def test_histograms_of_scores_without_two_bounds_have_the_range_of_the_data() -> None:
    def shown(score: Score, *values: float) -> tuple[float, float, bool]:
        rows = [Row(i, "done", {score.key: value}) for i, value in enumerate(values)]
        series = SimpleNamespace(last=SimpleNamespace(rows=rows))
        return html_page._range(SimpleNamespace(series=[series]), score)

    assert shown(Score("a/kl", "KL", scale=1.0), 0.00004, 0.0002) == (0.00004, 0.0002, False)
    assert shown(Score("a/kl", "KL", scale=1.0), 0.0, 0.2, 20.0) == (0.2, 20.0, True)
    assert shown(Score("a/kl", "KL", scale=1.0), 0.0, 1e-12, 20.0) == (1e-9 * 20.0, 20.0, True)
    assert shown(Score("a/kl", "KL", scale=1.0), 0.0, 0.0) == (0.0, 0.0, False)
    assert shown(Score("a/share", "A"), 0.25, 0.5) == (0.0, 1.0, False)
    assert shown(Score("a/margin", "M", signed=True), 0.25, 0.5) == (-1.0, 1.0, False)
    mark = Mark("color-0", series_style(0))
    long = svg.histogram([0.0, 0.1, 39.9], 0.01, 1000.0, mark, "long", logarithmic=True)
    assert re.findall(r'rect x="([\d.]+)"', long) == ["0.0", "22.4", "78.4"]
    assert 'x1="70"' in long  # the mean, 13.3, at 0.625 of the width
    equal = svg.histogram([3.0, 3.0], 3.0, 3.0, mark, "equal")
    assert 'x="56.0"' in equal
    assert 'x1="56"' in equal  # the bar begins at the mean
