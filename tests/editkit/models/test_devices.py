"""Missing devices and unsupported types are refused before weights are read, and by doctor."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from editkit import ModelError, load_model
from editkit.cli.main import main
from editkit.models.loading import check_device
from editkit.registry.models import model_folder


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a CPU alone, wherever the test runs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


DEVICES: list[tuple[Any, str, str]] = [
    ("meta", r"device is 'meta', which keeps shapes of weights but no values", "Use cpu"),
    ("mps", "device is 'mps', but torch sees no mps device", "Use cpu"),
    ("cuda", "device is 'cuda', but torch sees no GPU", "Use cpu"),
    ("cuda:99", "device is 'cuda:99', but torch sees no GPU", "Use cpu"),
    ("xpu", "device is 'xpu', but torch sees no xpu device", "Use cpu"),
    ("cpu:3", "device is 'cpu:3', but there is only one cpu", "Use cpu"),
    ("cpu:-1", "device is 'cpu:-1'", "Use cpu"),
    ("cuda:-1", "device is 'cuda:-1', which is not a device", "Use cpu, cuda"),
    ("cuda:", "device is 'cuda:', which is not a device", "Use cpu, cuda"),
    ("vulkan", "device is 'vulkan', a kind that editkit does not support", "Use cpu"),
    ("hpu:0", "device is 'hpu:0', a kind that", "Use cpu"),
    ("warp", "device is 'warp', which is not a device", "Use cpu, cuda"),
    ("CPU", "device is 'CPU', which is not a device", "Use cpu, cuda"),
    ("", "device is '', which is not a device", "Use cpu, cuda"),
    ("gpu", "device is 'gpu', which is not a device", "Use cpu, cuda"),
]


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_model` fails if it looks for the model; `doctor` keeps its own reference."""
    importlib.import_module("editkit.doctor.diagnose")

    def look(*_: Any, **__: Any) -> Path:
        raise AssertionError("the model was looked for first")

    monkeypatch.setattr("editkit.registry.models.model_folder", look)


@pytest.mark.parametrize(("device", "message", "hint"), DEVICES)
@pytest.mark.usefixtures("bare", "unreadable")
def test_a_missing_device_is_refused(
    device: str, message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model("atlas", device=device)
    assert hint in str(caught.value.hint)
    assert main(["statistics", "atlas", "--layer", "0", "--corpus", "x", "--device", device]) == 2
    assert message in capsys.readouterr().err
    if device:  # an empty one is the benchmark's own
        assert main(["doctor", "--device", device, "--editor", "none", "--json"]) == 1
        checks = json.loads(capsys.readouterr().out)["checks"]
        [problem] = [check for check in checks if check["verdict"] == "problem"]
        assert problem["topic"] == "device"
        assert message in problem["text"]


@pytest.mark.parametrize("device", [None, True, 1.5, [], b"cpu"])
def test_an_invalid_device_name_is_refused(device: Any) -> None:
    with pytest.raises(ModelError, match=r"device is .*, expected a text"):
        load_model("atlas", device=device)


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_counted() -> None:
    for device in ("cuda", "cuda:0", "cuda:1", 0, 1):
        check_device(device)
    for device in ("cuda:2", "cuda:99", 2):
        with pytest.raises(ModelError, match="torch sees only 2, numbered from 0") as caught:
            check_device(device)
        assert caught.value.hint == "Use cuda:0 to cuda:1."


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_every_name_of_the_cpu_is_accepted(device: Any) -> None:
    assert load_model("atlas", device=device).device.type == "cpu"


@pytest.mark.parametrize(
    "dtype", ["int8", "float64", "auto", "FLOAT32", "", None, torch.float32, []]
)
@pytest.mark.usefixtures("unreadable")
def test_an_unsupported_type_is_refused(dtype: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match=r"^dtype is .*Use one of: float32, bfloat16, float16"):
        load_model("atlas", dtype=dtype)
    if isinstance(dtype, str) and dtype:
        assert main(["doctor", "--dtype", dtype, "--editor", "none", "--json"]) == 2
        assert "expected 'float32', 'bfloat16' or 'float16'" in capsys.readouterr().err


@pytest.mark.usefixtures("bare")
def test_doctor_reads_device_and_dtype_of_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["--set", "model.device=meta", "--set", "model.dtype=bfloat16"]
    assert main(["doctor", *sets, "--editor", "none"]) == 1
    out = capsys.readouterr().out
    assert "problem  device" in out
    assert "of memory as bfloat16" in out


@pytest.mark.usefixtures("bare")
def test_a_run_refuses_the_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["run-benchmark", "--editor", "none", "--limit", "1", "--out", str(tmp_path)]
    assert main([*given, "--device", "meta"]) == 2
    assert "device is 'meta'" in capsys.readouterr().err


# ---------------------------------------------------------------- describe --model


def test_describe_refuses_names_that_cannot_be_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder("atlas"), folder)
    (folder / "model.safetensors").unlink()
    assert main(["describe", "rome", "--model", str(folder)]) == 0  # a config is enough
    capsys.readouterr()
    config = folder / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    for text, message in [
        (json.dumps({**content, "model_type": "t5"}), "is an encoder-decoder (t5)"),
        (
            json.dumps({**content, "quantization_config": {"quant_method": "awq"}}),
            "quantised (awq)",
        ),
        ("{", "is not JSON"),
    ]:
        config.write_text(text, encoding="utf-8")
        assert main(["describe", "rome", "--model", str(folder)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert message in err
    for name in ("./nowhere", str(config)):
        assert main(["describe", "rome", "--model", name]) == 2
        assert "see: editkit explain errors/model" in capsys.readouterr().err
    assert main(["describe", "rome", "--model", "openai-community/gpt2-xl"]) == 0
