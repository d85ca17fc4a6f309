from __future__ import annotations

import json
from pathlib import Path

import pytest

from editkit.cli.main import main


def model_of(out: str) -> dict[str, object]:
    choice: dict[str, object] = json.loads(out)["model"]
    return choice


def test_the_device_and_dtype_flags_set_values_of_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "run-benchmark",
        "atlas",
        "--limit",
        "1",
        "--out",
        str(tmp_path),
        "--dry-run",
        "--json",
    ]
    assert main([*given, "--device", "cuda:1", "--dtype", "bfloat16"]) in (0, 1)  # 1: no GPU here
    model = model_of(capsys.readouterr().out)
    assert (model["device"], model["dtype"]) == ("cuda:1", "bfloat16")
    assert main([*given, "--set", "model.device_map={transformer.h: 0, lm_head: cpu}"]) in (0, 1)
    model = model_of(capsys.readouterr().out)
    assert model["device_map"] == {"transformer.h": 0, "lm_head": "cpu"}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            ["--dtype", "int8"],
            "model.dtype: got 'int8', expected 'float32', 'bfloat16' or 'float16'",
        ),
        (["--set", "model.attention=flash"], "model.attention: got 'flash', expected 'sdpa' or"),
    ],
)
def test_invalid_values_are_refused_before_the_model_is_loaded(
    flag: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run-benchmark", "atlas", "--dry-run", *flag]) == 2
    assert message in capsys.readouterr().err
