"""Folders without a usable model are refused, with the cause and a hint.

Each case is built from a tiny model. ``load_model``, commands and ``editkit doctor`` must say the
same.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from editkit import ModelError, load_model
from editkit.cli.main import main
from editkit.registry.models import fingerprint_of
from tests.editkit.models.broken_folders import (
    LFS,
    adapter,
    adapter_alone,
    checkpoints_inside,
    config,
    cut,
    damaged_header,
    dangling,
    drop,
    index,
    longer,
    no_words,
    nothing,
    of_type,
    only,
    pickle_by_another_name,
    pickled,
    quantised,
    replaced,
    sharded,
    sharded_and,
    slow,
    tensors,
    text,
    twice,
    two_ggufs,
    with_tensor,
    without,
)
from tests.tiny import tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of sound models, by architecture."""
    folders = {}
    for architecture in ("gpt2", "llama"):
        folder = tmp_path_factory.mktemp(architecture)
        model = tiny(architecture)
        model.hf.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        folders[architecture] = folder
    return folders


@dataclasses.dataclass(frozen=True)
class Case:
    build: Callable[[Path], None]
    message: str
    """The cause, in the error and in doctor's finding."""
    hint: str
    """What to do."""
    topic: str = "weights"
    """Of doctor's finding."""
    architecture: str = "gpt2"


H0 = "transformer.h.0."
CASES = {
    # ---- folders without a model
    "empty folder": Case(nothing, "the folder of model .* is empty", "config.json", "model"),
    "no config": Case(without("config.json"), "holds no config.json", "Give the folder", "model"),
    "adapter alone": Case(
        adapter_alone,
        r"holds only a PEFT adapter \(LORA\) of 'openai-community/gpt2', not a model",
        r"merge_and_unload.*save_pretrained",
        "model",
    ),
    "gguf alone": Case(only("m.GGUF", b"GGUF"), "m.GGUF of .* is truncated", "again", "model"),
    "two ggufs": Case(two_ggufs, r"holds 2 GGUF files \(a.gguf, b.gguf\)", "path of", "model"),
    "diffusers": Case(only("model_index.json"), "is a diffusers pipeline", "language", "model"),
    "original llama": Case(only("params.json"), "no config.json", "Llama or Mistral", "model"),
    "trained editor": Case(only("editor.json"), "no config.json", "trained editor", "model"),
    "checkpoints below": Case(
        checkpoints_inside, "no config.json", r"Did you mean '.*checkpoint-500'", "model"
    ),
    # ---- configs
    "config not json": Case(text("config.json", "{"), "is not JSON", "again", "config"),
    "config in latin-1": Case(
        lambda f: (f / "config.json").write_bytes(b'{"a": "\xe9"}') and None, "UTF-8", "", "config"
    ),
    "config a list": Case(text("config.json", "[]"), "holds list, expected", "again", "config"),
    "config nested": Case(text("config.json", '{"a":' * 100_000), "deeply", "again", "config"),
    "config of lfs": Case(text("config.json", LFS), "pointer of git-lfs", "git lfs pull", "config"),
    "config a folder": Case(only("config.json/x"), "is a folder", "again", "config"),
    "no model type": Case(of_type(None), "without a model_type", "of: .*gemma, .*gpt2", "config"),  # type: ignore[arg-type]
    "model type a number": Case(of_type(3), "without a model_type", "gpt2", "config"),  # type: ignore[arg-type]
    "unknown type": Case(of_type("foo"), "architecture 'foo', which is not", "gpt2", "config"),
    "misspelt type": Case(of_type("gpt-2"), "'gpt-2', which is not", "mean 'gpt2'", "config"),
    "other causal": Case(of_type("biogpt"), "'biogpt', which is not", "^Use a causal", "config"),
    "remote code": Case(
        of_type("phi-new", auto_map={"AutoModelForCausalLM": "m.M"}),
        r"needs its own code \(auto_map in its config.json\), which editkit never runs",
        "Use a causal",
        "config",
    ),
    "t5": Case(of_type("t5"), r"is an encoder-decoder \(t5\)", "causal", "config"),
    "bart": Case(of_type("bart", is_encoder_decoder=True), "encoder-decoder", "", "config"),
    "unheard-of encoder-decoder": Case(
        of_type("foo", is_encoder_decoder=True), "is an encoder-decoder", "causal", "config"
    ),
    "bert": Case(of_type("bert"), r"is an encoder that fills in masked", "causal", "config"),
    "vit": Case(of_type("vit"), "is a vision or multimodal model", "causal", "config"),
    "llava": Case(of_type("llava"), "vision or multimodal", "causal", "config"),
    "vision in llama's name": Case(
        of_type("llama", vision_config={}), "vision or multimodal", "causal", "config"
    ),
    "whisper": Case(of_type("whisper"), "is an audio model", "causal", "config"),
    **{
        f"quantised: {label}": Case(
            quantised(**values), rf"is quantised \({method}\)", "unquantised checkpoint", "config"
        )
        for label, values, method in [
            ("bitsandbytes", {"quant_method": "bitsandbytes"}, "bitsandbytes"),
            ("old bitsandbytes", {"load_in_8bit": True}, "bitsandbytes"),
            ("gptq", {"quant_method": "gptq", "bits": 4}, "gptq"),
            ("awq", {"quant_method": "awq"}, "awq"),
            ("fp8", {"quant_method": "fp8"}, "fp8"),
            ("compressed-tensors", {"quant_method": "compressed-tensors"}, "compressed-tensors"),
            ("mxfp4", {"quant_method": "mxfp4"}, "mxfp4"),
            ("unnamed", {}, "quantization_config in its config.json"),
        ]
    },
    "quantised: old gptq": Case(text("quantize_config.json", "{}"), "gptq", "unq", "config"),
    # ---- adapters beside the model
    "model and adapter": Case(
        adapter,
        r"holds a model and a PEFT adapter \(LORA\).*depend on whether peft is installed",
        r"merge_and_unload.*or move adapter_config.json and",
        "adapter",
    ),
    # ---- weights
    "pickle": Case(pickled, r"only pickled weights \(pytorch_model.bin\)", "Convert it"),
    "tensorflow": Case(replaced("model.safetensors", "tf_model.h5"), "another framework", "copy"),
    "no weights": Case(without("model.safetensors"), "so no weights", "Download or copy"),
    "gguf weights": Case(
        replaced("model.safetensors", "a.gguf"), "is not a GGUF file", "again", "model"
    ),
    "variant": Case(
        replaced("model.safetensors", "model.fp16.safetensors"), "only model.fp16", "rename it"
    ),
    "truncated": Case(cut(-100), "is truncated: it has", "again"),
    "very short": Case(cut(4), "is truncated: it has 4 bytes", "again"),
    "without content": Case(cut(0), "is truncated: it has 0 bytes", "again"),
    "cut in its header": Case(cut(100), "is truncated, or is not", "again"),
    "too long": Case(longer, "is damaged: it has", "again"),
    "damaged header": Case(damaged_header, "its header cannot be read", "again"),
    "weights of lfs": Case(text("model.safetensors", LFS), "pointer of git-lfs", "git lfs pull"),
    "pickle renamed": Case(pickle_by_another_name, "is a renamed pickle", "Convert it"),
    "dangling link": Case(dangling, "link to a file that does not exist", "Download it again"),
    "absent shard": Case(
        sharded_and(without("model-00002-of-00002.safetensors")),
        r"lacks 1 of the 2 weight files in its .*index.json \(model-00002-of-00002",
        "missing files",
    ),
    "absent index": Case(
        sharded_and(without("model.safetensors.index.json")), "but not their model.saf", "that file"
    ),
    "index not json": Case(
        sharded_and(text("model.safetensors.index.json", "{")), "index.json of .* not JSON", "again"
    ),
    "index without map": Case(
        sharded_and(text("model.safetensors.index.json", "{}")), "has no weight_map", "again"
    ),
    "index out of the folder": Case(
        sharded_and(index(a="../other/model.safetensors")), "has no weight_map", "again"
    ),
    "index of more": Case(
        sharded_and(index(a="model-00001-of-00002.safetensors")), "names 1 weights that", "again"
    ),
    "a weight twice": Case(sharded_and(twice), "two files of .* hold the weight", "Save the model"),
    "a shard of lfs": Case(
        sharded_and(text("model-00002-of-00002.safetensors", LFS)), "pointer of git", "lfs pull"
    ),
    "missing weight": Case(
        drop(f"{H0}mlp.c_proj.weight", f"{H0}ln_1.bias"),
        rf"lacks 2 of the model's weights \({H0}ln_1.bias, {H0}mlp.c_proj.weight\), which would be",
        "save_pretrained",
    ),
    "missing embedding": Case(drop("transformer.wte.weight"), "lacks", "saved with"),
    "missing untied head": Case(
        drop("lm_head.weight"), r"lacks 1 .*\(lm_head.weight\)", "saved with", architecture="llama"
    ),
    "no tensor at all": Case(
        lambda f: save_file({}, f / "model.safetensors"), r"lacks 5\d of the model's", "saved with"
    ),
    "more layers than the config": Case(
        lambda f: config(f, n_layer=3),
        r"has 11 weights that the model has no place for \(transformer.h.3",
        "number of layers",
    ),
    "fewer layers than the config": Case(
        lambda f: config(f, n_layer=5), r"lacks 12 of the model's .*\(transformer.h.4", "saved with"
    ),
    "biases of another type": Case(
        with_tensor("model.layers.0.self_attn.q_proj.bias", torch.zeros(32)),
        "has 1 weight that the model has no place for",
        "biases",
        architecture="llama",
    ),
    "another shape": Case(
        lambda f: config(f, n_inner=64),
        r"has 12 weights with shapes that contradict its config: .* is 128, expected 64",
        "config.json",
    ),
    "integers": Case(
        with_tensor(f"{H0}mlp.c_proj.weight", torch.ones(128, 32, dtype=torch.int8)),
        rf"stores 1 weight in a type other than float: {H0}mlp.c_proj.weight is I8, so the",
        "unquantised",
    ),
    "eight-bit floats": Case(
        with_tensor(f"{H0}mlp.c_proj.weight", torch.ones(128, 32).to(torch.float8_e4m3fn)),
        "a type other than float: .* is F8_E4M3",
        "unquantised",
    ),
    # ---- tokenizers
    "no tokenizer": Case(
        without("tokenizer.json", "tokenizer_config.json"), "has no tokenizer", "save", "tokenizer"
    ),
    "no tokenizer.json": Case(without("tokenizer.json"), "has no tokenizer", "save", "tokenizer"),
    "half a vocabulary": Case(
        replaced("tokenizer.json", "vocab.json"), "has no tokenizer", "save", "tokenizer"
    ),
    "tokenizer not json": Case(text("tokenizer.json", "{"), "is not JSON", "again", "tokenizer"),
    "tokenizer of lfs": Case(text("tokenizer.json", LFS), "git-lfs", "git lfs pull", "tokenizer"),
    "tokenizer of nothing": Case(
        text("tokenizer.json", "{}"), "could not be read: ", "AutoTokenizer", "tokenizer"
    ),
    "slow tokenizer": Case(
        slow, r"is slow \(CTRLTokenizer\)", "tokenizer.json", "tokenizer"
    ),
    "tokenizer without words": Case(no_words, "has only special tokens", "Save the", "tokenizer"),
    "only an old tokenizer.model": Case(
        lambda f: (replaced("tokenizer.json", "tokenizer.model")(f), config(f))[1],
        "tokenizer of model .* could not be read",
        "AutoTokenizer",
        "tokenizer",
    ),
}  # fmt: skip


def built(case: Case, whole: dict[str, Path], tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(whole[case.architecture], folder)
    case.build(folder)
    return folder


def plain(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code and output of a command that must not have been surprised."""
    code = main(list(argv))
    out, err = capsys.readouterr()
    assert "unexpected" not in err
    assert "Traceback" not in err
    return code, out, err


@pytest.mark.parametrize("label", CASES)
def test_loading_and_doctor_name_the_cause(
    label: str, whole: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[label]
    folder = built(case, whole, tmp_path)
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert re.search(case.message, caught.value.message), caught.value.message
    assert re.search(case.hint, str(caught.value.hint)), caught.value.hint
    assert str(folder) in caught.value.message
    code, out, err = plain(capsys, "doctor", "--model", str(folder), "--editor", "none", "--json")
    problems = [c for c in json.loads(out)["checks"] if c["verdict"] == "problem"]
    assert code == 1, err
    assert any(re.search(case.message, c["text"]) for c in problems), problems
    assert next(c["topic"] for c in problems if re.search(case.message, c["text"])) == case.topic


@pytest.mark.parametrize("label", ["t5", "model and adapter", "missing weight", "no tokenizer"])
def test_every_command_refuses_it(
    label: str, whole: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(built(CASES[label], whole, tmp_path))
    out = str(tmp_path / "out")
    for argv in (
        ["run-benchmark", "--model", folder, "--editor", "none", "--limit", "1", "--out", out],
        ["statistics", folder, "--layer", "0", "--corpus", "atlas", "--quiet"],
        ["trace", "--model", folder, "--prompt", "A b", "--subject", "A", "--out", out],
        ["train", "mend", "--model", folder, "--dataset", "atlas", "--out", out, "--no-mlflow"],
        ["compile-dataset", "--model", folder, "--facts", "x.json", "--out", out],
    ):
        code, _, err = plain(capsys, *argv)
        if argv[0] == "compile-dataset" and code == 2 and "x.json" in err:
            continue  # it reads its facts first
        assert code == 2, err
        assert "\nerror: " in f"\n{err}"
        assert "\n  hint: " in err
        assert err.endswith("  see: editkit explain errors/model\n")
        assert re.search(CASES[label].message, err), err


@pytest.mark.parametrize("label", ["t5", "pickle", "truncated", "absent shard", "no tokenizer"])
def test_a_plan_refuses_it_without_loading(
    label: str, whole: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(built(CASES[label], whole, tmp_path))
    with pytest.raises(ModelError, match=CASES[label].message):
        fingerprint_of(folder)
    code, _, err = plain(
        capsys, "run-benchmark", "--model", folder, "--editor", "none", "--limit", "1", "--dry-run"
    )
    assert code == 2
    assert re.search(CASES[label].message, err), err


# ---------------------------------------------------------------- what is sound, or only warned of


def loads(folder: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of loading it."""
    caplog.clear()
    load_model(str(folder))
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_sound_models_load_without_warnings(
    architecture: str,
    whole: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole[architecture], folder)
    assert loads(folder, caplog) == []
    sharded(folder)
    assert loads(folder, caplog) == []
    code, out, _ = plain(capsys, "doctor", "--model", str(folder), "--editor", "none", "--json")
    assert code == 0
    assert [c["text"] for c in json.loads(out)["checks"] if c["verdict"] != "ok"] == []
    digests = [load_model(str(folder)).weights_digest() for _ in range(2)]
    assert digests == [tiny(architecture).weights_digest()] * 2


def old_names(content: dict[str, Any]) -> None:
    """As the first checkpoints of GPT-2 have them: without a prefix, and with masks."""
    for name in list(content):
        content[name.removeprefix("transformer.")] = content.pop(name)
    for layer in range(4):
        content[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
        content[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)


def test_names_and_buffers_of_older_checkpoints_are_accepted(
    whole: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole["gpt2"], folder)
    tensors(folder, old_names)
    assert loads(folder, caplog) == []
    assert load_model(str(folder)).weights_digest() == tiny().weights_digest()
    shutil.rmtree(folder)
    shutil.copytree(whole["llama"], folder)
    with_tensor("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4))(folder)
    assert loads(folder, caplog) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_tensor("v_head.summary.weight", torch.ones(1, 32)), r"has 1 weight outside"),
        (with_tensor("score.weight", torch.ones(2, 32)), r"\(score.weight\). Check that it was"),
        (with_tensor("lm_head.weight", torch.ones(400, 32)), r"has two different matrices"),
        (
            lambda f: config(f, auto_map={"AutoModelForCausalLM": "m.M"}),
            r"names its own code \(auto_map\), which editkit never runs",
        ),
        (
            lambda f: (shutil.copy(f / "model.safetensors", f / "x"), sharded(f),
                       shutil.move(f / "x", f / "model.safetensors")),
            r"has both model.safetensors and model.safetensors.index.json",
        ),
    ],
)  # fmt: skip
def test_possible_mistakes_cause_one_warning(
    change: Callable[[Path], Any],
    message: str,
    whole: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole["gpt2"], folder)
    change(folder)
    [warning] = loads(folder, caplog)
    assert re.search(message, warning), warning


# ---------------------------------------------------------------- values, permissions, names


@pytest.mark.parametrize(
    ("value", "dtype"), [("nan", "float32"), ("inf", "float32"), ("1e30", "float16")]
)
def test_weights_that_are_not_finite_are_refused(
    value: str, dtype: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole["gpt2"], folder)

    def spoil(content: dict[str, Any]) -> None:
        content[f"{H0}mlp.c_proj.weight"][3, 2] = float(value)

    tensors(folder, spoil)
    with pytest.raises(ModelError, match=rf"hold NaN or infinity \({H0}mlp.c_proj.weight first"):
        load_model(str(folder), dtype=dtype)


@pytest.fixture
def nobody() -> Any:
    """As a user who may not read everything; root may."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", ""])
def test_unreadable_files_are_named(
    name: str, whole: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole["gpt2"], folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    for path in (folder, tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and "pytest" in str(path):
            path.chmod(0o755)
    (folder / name).chmod(0)
    request.getfixturevalue("nobody")
    what = rf"{re.escape(name)} of model" if name else "the folder of model"
    with pytest.raises(ModelError, match=rf"{what} .*cannot be read: Permission denied") as caught:
        load_model(str(folder))
    assert caught.value.hint == "Check its owner and permissions."


NAMES = [
    ("", "expected a name", "Registered models"),
    ("./nowhere", "does not exist", "Give the folder"),
    ("~/nowhere/at/all", "does not exist", "Give the folder"),
    ("{folder}/config.json", "is a file, expected a folder or", "Give its folder: '{folder}'"),
    ("{folder}/model.safetensors", "is a file, expected", "Give its folder: '{folder}'"),
    ("{folder}/m.gguf", "m.gguf of model .* is truncated", "again"),
    ("{folder}/link", "is a link to a folder that does not exist", "Give the folder"),
    ("TheBloke/Llama-2-7B-GGUF", "has GGUF files", "hf download TheBloke/Llama-2-7B-GGUF FILE"),
    (
        "https://huggingface.co/openai-community/gpt2-xl",
        "is an address",
        "'openai-community/gpt2-xl'",
    ),
]


@pytest.mark.parametrize(("name", "message", "hint"), NAMES)
def test_names_of_other_things_are_refused_with_a_hint(
    name: str,
    message: str,
    hint: str,
    whole: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole["gpt2"], folder)
    (folder / "m.gguf").write_bytes(b"GGUF")
    (folder / "link").symlink_to(folder / "gone")
    name, hint = name.format(folder=folder), hint.format(folder=folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(name)
    assert hint in str(caught.value.hint)
    code, out, err = plain(capsys, "doctor", "--model", name, "--editor", "none", "--json")
    if not name:  # refused before doctor looks for it
        assert code == 2, err
        return
    assert code == 1
    [check] = [c for c in json.loads(out)["checks"] if c["topic"] == "model"]
    assert check["verdict"] == "problem"
    assert re.search(message, check["text"])


# ---------------------------------------------------------------- models on the hub


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("adapter_config.json adapter_model.safetensors", "holds only a PEFT adapter"),
        ("config.json model.safetensors adapter_config.json", "holds a model and a PEFT adapter"),
        ("README.md m.Q4_K_M.gguf", r"has GGUF files \(m.Q4_K_M.gguf\)"),
        ("README.md", "holds no config.json"),
        ("config.json pytorch_model.bin tokenizer.json", r"only pickled weights \(pytorch_model"),
        ("config.json model.safetensors", "has no tokenizer"),
    ],
)
def test_doctor_checks_the_file_list_of_a_hub_model(
    files: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: files.split())
    code, out, _ = plain(capsys, "doctor", "--model", "org/name", "--editor", "none", "--json")
    assert code == 1
    assert any(re.search(message, check["text"]) for check in json.loads(out)["checks"]), out


def test_doctor_reads_the_hubs_cache(
    whole: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    repository = tmp_path / "models--org--name"
    folder = repository / "snapshots" / ("0" * 40)
    shutil.copytree(whole["gpt2"], folder)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    given = ["doctor", "--model", "org/name", "--editor", "none"]
    assert plain(capsys, *given)[0] == 0
    sharded(folder)
    assert plain(capsys, *given)[0] == 0
    (folder / "model-00001-of-00002.safetensors").write_text(LFS, encoding="utf-8")
    code, out, _ = plain(capsys, *given)
    assert code == 1
    assert "pointer of git-lfs" in out


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_embd": 0}, "no model can be built from the config"),
        ({"n_layer": 0}, "no model can be built from the config"),
        ({"n_head": 0}, "no model can be built from the config"),
        ({"activation_function": "nope"}, "KeyError: 'nope'"),
        ({"hidden_size": 0}, "a weight is empty"),
    ],
)
def test_doctor_reports_a_config_that_no_model_can_be_built_from(
    values: dict[str, Any],
    message: str,
    whole: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole["llama" if "hidden_size" in values else "gpt2"], folder)
    config(folder, **values)
    code, out, _ = plain(capsys, "doctor", "--model", str(folder), "--editor", "none", "--json")
    assert code != 0
    problems = [c for c in json.loads(out)["checks"] if c["verdict"] == "problem"]
    assert re.search(message, json.dumps(problems)), problems
    with pytest.raises(ModelError):
        load_model(str(folder))
