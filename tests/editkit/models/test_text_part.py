"""Vision-language checkpoints: their text part is loaded, and gives the whole model's results."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from editkit import LanguageModel, ModelError, load_model
from editkit.models.checkpoint import problems_of
from editkit.models.loading import incomplete, report_of_headers
from editkit.models.shape import shape_of
from editkit.models.text_part import WRAPPERS, has_text_part, text_config
from editkit.registry.models import n_layers_of
from tests.slow_cases import by_default
from tests.tiny import tokenizer

_TEXT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 400, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
_VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip
_THREE_POSITIONS = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
}
_QWEN_VISION: dict[str, Any] = {
    "hidden_size": 16, "out_hidden_size": 32, "depth": 1, "num_heads": 2, "intermediate_size": 16,
    "patch_size": 4,
}  # fmt: skip
CONFIGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gemma3": ("Gemma3Config", {"sliding_window": 4}, _VISION),
    "idefics3": ("Idefics3Config", {"model_type": "llama"}, _VISION),
    "internvl": (
        "InternVLConfig", {"model_type": "qwen2"},
        {**_VISION, "image_size": [8, 8], "patch_size": [4, 4]},
    ),
    "llava": (
        "LlavaConfig", {"model_type": "llama"}, {**_VISION, "model_type": "clip_vision_model"}
    ),
    "llava_next": (
        "LlavaNextConfig", {"model_type": "mistral"}, {**_VISION, "model_type": "clip_vision_model"}
    ),
    "llava_onevision": (
        "LlavaOnevisionConfig", {"model_type": "qwen2"},
        {**_VISION, "model_type": "siglip_vision_model"},
    ),
    "mistral3": (
        "Mistral3Config", {"model_type": "mistral"}, {**_VISION, "model_type": "pixtral"}
    ),
    "qwen2_5_vl": ("Qwen2_5_VLConfig", _THREE_POSITIONS, _QWEN_VISION),
    "qwen2_vl": (
        "Qwen2VLConfig", _THREE_POSITIONS,
        {"embed_dim": 16, "hidden_size": 32, "depth": 1, "num_heads": 2, "mlp_ratio": 2,
         "patch_size": 4},
    ),
    "qwen3_vl": (
        "Qwen3VLConfig", _THREE_POSITIONS, {**_QWEN_VISION, "deepstack_visual_indexes": [0]}
    ),
    "smolvlm": ("SmolVLMConfig", {"model_type": "llama"}, _VISION),
}  # fmt: skip


@functools.cache
def whole(name: str) -> Any:
    """The vision-language model of transformers."""
    config_class, text, vision = CONFIGS[name]
    values = {"text_config": {**_TEXT, **text}, "vision_config": vision}
    config = getattr(transformers, config_class)(**values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(4)
    return model


def saved(name: str, folder: Path) -> Path:
    whole(name).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def assert_same_logits(model: LanguageModel, name: str) -> None:
    ids = torch.arange(20, 52)[None]
    with torch.no_grad():
        expected = whole(name)(input_ids=ids).logits
        torch.testing.assert_close(model.hf(input_ids=ids).logits, expected)
    assert float(expected.std()) > 0.1


@pytest.mark.parametrize("name", by_default(CONFIGS, "gemma3", "llava", "qwen2_vl"))
def test_the_text_part_gives_the_logits_of_the_whole_model(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(name, tmp_path)
    model = load_model(str(folder))
    assert_same_logits(model, name)
    assert not any("vis" in path for path, _ in model.hf.named_parameters())
    [line] = [r.getMessage() for r in caplog.records if r.name.startswith("editkit")]
    assert f"({name}) is loaded, a model of {model.hf.config.model_type}" in line


def test_the_table_is_covered() -> None:
    assert set(CONFIGS) == set(WRAPPERS)


def test_a_config_with_the_text_values_at_its_top(tmp_path: Path) -> None:
    """As Qwen2-VL was published."""
    folder = saved("qwen2_vl", tmp_path)
    content = json.loads((folder / "config.json").read_text())
    text = content.pop("text_config")
    rope = text.pop("rope_parameters")
    content |= {**text, "model_type": "qwen2_vl", "rope_theta": rope["rope_theta"]}
    content["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    (folder / "config.json").write_text(json.dumps(content))
    assert_same_logits(load_model(str(folder)), "qwen2_vl")


@pytest.mark.parametrize("name", by_default(CONFIGS, "gemma3"))
def test_headers_and_shape_are_those_of_the_text_part(name: str, tmp_path: Path) -> None:
    """What ``editkit doctor`` reads instead of the weights."""
    folder = saved(name, tmp_path)
    [problem] = problems_of(folder, "it")
    assert problem.verdict == "warning"
    config = transformers.AutoConfig.from_pretrained(folder)
    empty, report = report_of_headers(folder, config)
    assert incomplete(empty, report, "it", only_text=True) == []
    shape = shape_of(text_config(config))
    loaded = load_model(str(folder)).hf
    assert shape.n_parameters == sum(weight.numel() for weight in loaded.parameters())
    assert n_layers_of(str(folder)) == 4  # for rules that choose a layer


def test_a_weight_of_the_text_part_that_is_missing_is_found(tmp_path: Path) -> None:
    folder = saved("llava", tmp_path)
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["language_model.model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of .*model.layers.1.mlp.up_proj.weight"):
        load_model(str(folder))


def test_the_fingerprint_covers_the_vision_tower(tmp_path: Path) -> None:
    """It is that of the files."""
    first = load_model(str(saved("llava", tmp_path / "a"))).fingerprint
    folder = saved("llava", tmp_path / "b")
    weights = load_file(folder / "model.safetensors")
    weights["multi_modal_projector.linear_1.bias"] += 1.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(folder)).fingerprint != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": {"model_type": "mamba"}}, r"text part of .*\(llava\) has only recurrent"),
        ({"text_config": {"model_type": "no such"}}, "text part of a llava config cannot be read"),
        ({"quantization_config": {"quant_method": "awq"}}, r"\(llava\) is quantised \(awq\)"),
        ({"model_type": "mllama"}, r"cross-attention to images inside its language model"),
        ({"model_type": "gemma3n"}, "multimodal.*text part loads from: gemma3, idefics3"),
    ],
)  # fmt: skip
def test_others_are_refused_with_the_reason(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = saved("llava", tmp_path)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))
    with pytest.raises(ModelError, match=message):
        load_model(str(folder))


def test_a_whole_model_in_memory_is_refused() -> None:
    with pytest.raises(ModelError, match=r"multimodal model \(llava\).*loads its text part alone"):
        LanguageModel(whole("llava"), tokenizer(), name="mine")
    assert not has_text_part({"model_type": "llava"})
