"""Numbers as tables print them."""

from __future__ import annotations

import pytest

from editkit.benchmark.aggregate import mean_with_interval
from editkit.data_types import Score
from editkit.report.tables import printed, score_entry


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
    assert score_entry(Score("a/nats", "N", scale=1.0), estimate).plain == "0.0 ±0.0"
