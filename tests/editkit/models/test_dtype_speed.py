"""A type that is slow on this CPU causes a warning, where the user sees it."""

from __future__ import annotations

import json
import logging

import pytest

from editkit import load_model
from editkit.cli.main import main
from editkit.models import dtype_speed


@pytest.mark.parametrize(("times", "warned"), [(18.2, True), (2.9, False)])
def test_loading_and_doctor_warn_of_a_slow_type(
    times: float,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(dtype_speed, "slowdown", lambda dtype: times)
    text = "bfloat16 on this CPU takes 18 times as long as float32; use dtype float32"
    with caplog.at_level(logging.WARNING):
        load_model("atlas", dtype="bfloat16")
        assert (text in caplog.text) is warned
        caplog.clear()
        load_model("atlas")
        assert "on this CPU" not in caplog.text
    main(["doctor", "--model", "atlas", "--dtype", "bfloat16", "--editor", "none", "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert (("dtype", "warning", text) in [(*c.values(),) for c in checks]) is warned


def test_the_measurement_is_a_ratio_and_not_needed_for_float32_or_a_gpu() -> None:
    assert dtype_speed.slowdown("float32") > 0
    assert dtype_speed.slow_dtype("float32", "cpu") is None
    assert dtype_speed.slow_dtype("float16", "cuda:0") is None
