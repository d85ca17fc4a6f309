"""The measurements of a GPU run end to end on a CPU, at tiny shapes; no time is checked."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from editkit import LanguageModel, UsageError
from editkit_benchmarks.speed import device, device_cases
from editkit_benchmarks.speed.__main__ import main
from editkit_benchmarks.speed.device import Options, measure
from editkit_benchmarks.speed.device_cases import CASES, FEW, Bench, DeviceCase, Workload
from editkit_benchmarks.speed.names import DEVICE, SAME_AS_CPU, SHAPES, TESTS
from editkit_benchmarks.speed.shapes import SHAPES as ALL_SHAPES
from editkit_benchmarks.speed.shapes import random_model
from tests.devices import FIRST, pretended_devices


def options(tmp_path: Path, *cases: str, minutes: float = 5) -> Options:
    return Options.of("cpu", minutes=minutes, out=tmp_path / "speed.json", cases=cases)


@pytest.mark.slow
def test_every_case_has_a_time_a_limit_and_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"
    names = [name for name in DEVICE if name not in (TESTS, SAME_AS_CPU)]
    assert main(["--device", "cpu", "--shape", "tiny", "--out", str(out), *names]) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["question"] == "device"
    assert document["machine"]["card"] == "CPU"
    assert [result["case"] for result in document["results"]] == names
    lines = capsys.readouterr().out
    for result in document["results"]:
        assert result["seconds_per_unit"] > 0
        assert result["goal_s"] is None
        assert f"\n{result['case']} " in lines
        if result["case"] not in ("mend", "ke"):
            assert 0 < result["limit"]["share_of_limit"] < 1


def test_each_result_is_stored_at_once_and_a_failure_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[int] = []
    chosen = options(tmp_path, "rome", "trace", "statistics")

    def look(text: str) -> None:
        if chosen.out.exists():
            stored.append(len(json.loads(chosen.out.read_text(encoding="utf-8"))["results"]))

    def broken(bench: Bench) -> Workload:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setitem(CASES, "rome", DeviceCase("edit", broken))
    answer = measure(chosen, look)
    first, *others = answer["results"]
    assert first == {"case": "rome", "failed": "RuntimeError: CUDA out of memory"}
    assert all(result["seconds_per_unit"] > 0 for result in others)
    assert stored == [1, 2]


def test_what_does_not_fit_in_the_time_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(bench: Bench) -> Workload:
        try:
            time.sleep(60)
        except Exception:  # code on the way that handles every error
            pytest.fail("the case was not ended")
        raise AssertionError

    monkeypatch.setitem(CASES, "rome", DeviceCase("edit", endless))
    answer = measure(options(tmp_path, "rome", "trace", minutes=0.005), lambda _: None)
    assert [result["case"] for result in answer["results"]] == ["rome", "trace"]
    assert "not finished after" in answer["results"][0]["not_run"]
    assert answer["results"][1]["not_run"] == "no time was left"


def test_scores_that_differ_from_the_cpu_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_model("tiny")
    monkeypatch.setattr(device, "load_model", lambda name, device="cpu": model)
    out = tmp_path / "speed.json"
    arguments = ["--device", "mps", "--shape", "tiny", "--out", str(out), SAME_AS_CPU]
    assert main(arguments) == 0
    assert "largest difference 0.0e+00" in capsys.readouterr().out
    answers = iter([[1.0, 2.0], [1.0, 2.5]])
    monkeypatch.setattr(device, "_nll", lambda model: next(answers))
    assert main(arguments) == 1
    assert "scores differ by up to 0.5 nats" in capsys.readouterr().out


def test_checks_that_cannot_run_are_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    arguments = ["--device", "cpu", "--out", str(tmp_path / "speed.json"), TESTS, SAME_AS_CPU]
    assert main(arguments) == 0
    lines = capsys.readouterr().out
    assert "skipped: pytest is not installed (pip install -e '.[test]')" in lines
    assert "skipped: the device is the CPU" in lines


def test_goals_are_those_of_one_card_and_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    case = DeviceCase("edit", lambda bench: Workload(lambda: None, 1), 0.1)
    goals = []
    for card, shape in (
        ("NVIDIA H100 PCIe", "gpt2-xl"),
        ("NVIDIA H100", "tiny"),
        ("CPU", "gpt2-xl"),
    ):
        monkeypatch.setattr(device, "_card", lambda name, card=card: card)
        goals.append(
            device._timed(case, Bench("cpu", shape=shape, half="tiny", amounts=FEW), {})["goal_s"]
        )
    assert goals == [0.1, None, None]


def test_the_command_line_has_the_names_of_all_cases_and_shapes() -> None:
    assert [name for name in DEVICE if name not in (TESTS, SAME_AS_CPU)] == list(CASES)
    assert tuple(ALL_SHAPES) == SHAPES


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU")
def test_a_missing_gpu_is_an_error_with_a_way_out() -> None:
    with pytest.raises(UsageError, match="torch .* sees no GPU") as error:
        Options.of("cuda", minutes=1, out=Path("x"))
    assert "--device cpu --shape tiny" in str(error.value)


# ---------------------------------------------------------------- tensors on one device


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models of the cases on a device that refuses tensors of another one."""
    accelerate = pytest.importorskip("accelerate")

    def on_first(name: str, where: str) -> LanguageModel:
        model = random_model(name)
        tensors = (*dict(model.hf.named_parameters()), *dict(model.hf.named_buffers()))
        places = {tensor.rpartition(".")[0]: FIRST for tensor in tensors}
        accelerate.dispatch_model(
            model.hf,
            {**places, "lm_head": FIRST},
            main_device=FIRST,
            skip_keys=model.hf._skip_keys_device_placement,
            force_hooks=True,
        )
        return model

    monkeypatch.setattr(device_cases, "random_model", on_first)
    future: Any = torch.__future__
    before = future.get_overwrite_module_params_on_conversion()
    future.set_overwrite_module_params_on_conversion(True)
    yield
    future.set_overwrite_module_params_on_conversion(before)


# KE packs its texts by lengths that torch wants on the CPU, which these devices do not know.
@pytest.mark.slow
@pytest.mark.usefixtures("placed")
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("ke", "rome", "record")])
def test_all_tensors_of_a_case_are_on_its_device(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path))
    with pretended_devices():
        bench = Bench(FIRST, shape="tiny", half="tiny-llama", amounts=FEW)
        CASES[name].make(bench).run()
        assert str(bench.model(CASES[name].which).device) == FIRST
