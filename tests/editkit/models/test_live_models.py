"""Models in memory that editors cannot work on are refused by ``LanguageModel``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GPT2Model

from editkit import LanguageModel, ModelError
from tests.tiny import tiny, tokenizer

SMALL: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 400}


def gpt2(**changes: Any) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(**{**SMALL, "n_positions": 64, **changes}))


def refused(hf: Any, tokens: Any = None, name: Any = "mine") -> ModelError:
    with pytest.raises(ModelError) as caught:
        LanguageModel(hf, tokenizer() if tokens is None else tokens, name=name)
    assert caught.value.hint
    return caught.value


WITH_PEFT = pytest.mark.filterwarnings("ignore")
"""peft warns of what is deprecated in transformers and torch."""


def peft() -> Any:
    return pytest.importorskip("peft")


def wrapped() -> Any:
    config = peft().LoraConfig(target_modules=["c_proj"], r=2, fan_in_fan_out=True)
    return peft().get_peft_model(gpt2(), config)


@WITH_PEFT
def test_a_peft_model_is_refused_and_accepted_after_merging() -> None:
    model = wrapped()
    error = refused(model)
    assert "is a PeftModel of peft: editors do not see the weights" in error.message
    assert error.hint == "Merge it first: model = model.merge_and_unload()."
    LanguageModel(model.merge_and_unload(), tokenizer(), name="mine")


@WITH_PEFT
@pytest.mark.parametrize("kind", ["PrefixTuningConfig", "PromptTuningConfig", "IA3Config"])
def test_other_kinds_of_peft_are_refused(kind: str) -> None:
    config = getattr(peft(), kind)(task_type="CAUSAL_LM", **(
        {"target_modules": ["c_proj"], "feedforward_modules": [], "fan_in_fan_out": True}
        if kind == "IA3Config" else {"num_virtual_tokens": 2}
    ))  # fmt: skip
    assert "of peft" in refused(peft().get_peft_model(gpt2(), config)).message


@WITH_PEFT
@pytest.mark.parametrize(
    "build",
    [
        lambda: wrapped().base_model.model,
        lambda: wrapped().get_base_model(),
        lambda: _with_adapter(gpt2()),
        lambda: _switched_off(_with_adapter(gpt2())),
    ],
    ids=["inside", "base", "added", "switched off"],
)
def test_adapters_in_the_layers_are_refused(build: Callable[[], Any]) -> None:
    error = refused(build())
    assert "has peft adapters in its layers (transformer.h.0.attn.c_proj" in error.message
    assert "merge_and_unload" in str(error.hint)


def _with_adapter(model: Any) -> Any:
    """As transformers' ``add_adapter`` does it, which wants the newest peft."""
    config = peft().LoraConfig(target_modules=["c_proj"], r=2, fan_in_fan_out=True)
    return peft().inject_adapter_in_model(config, model)


def _switched_off(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, peft().tuners.tuners_utils.BaseTunerLayer):
            module.enable_adapters(False)
    return model


def t5() -> Any:
    config = transformers.T5Config(d_model=32, d_ff=64, num_layers=1, num_heads=2, vocab_size=400)
    return transformers.T5ForConditionalGeneration(config)


def bert() -> Any:
    config = transformers.BertConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    return transformers.BertForMaskedLM(config)


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    return transformers.ViTForImageClassification(config)


def biogpt() -> Any:
    config = transformers.BioGptConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=400
    )
    return transformers.BioGptForCausalLM(config)


def quantised() -> Any:
    model = gpt2()
    model.config.quantization_config = {"quant_method": "gptq"}
    return model


def with_codes(dtype: torch.dtype) -> Any:
    model = gpt2()
    weight = model.transformer.h[0].mlp.c_proj
    weight.weight = nn.Parameter(torch.ones(128, 32).to(dtype), requires_grad=False)
    return model


class Codes(torch.Tensor):
    """A subclass of tensors, as quantisers make them."""


def with_subclass() -> Any:
    model = gpt2()
    layer = model.transformer.h[0].mlp.c_proj
    layer.weight = nn.Parameter(torch.ones(128, 32).as_subclass(Codes), requires_grad=False)
    return model


def on_meta() -> Any:
    with torch.device("meta"):
        return gpt2()


def pruned() -> Any:
    model = gpt2()
    del model.transformer.h[1]
    return model


def without_block() -> Any:
    model = gpt2()
    model.transformer.h[0].mlp = nn.Identity()
    return model


def not_finite() -> Any:
    model = gpt2()
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[0, 0] = torch.nan
    return model


CASES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "t5": (t5, r"'mine' is an encoder-decoder \(t5\)", "Use a causal"),
    "bert": (bert, "is an encoder that fills in masked tokens", "Use a causal"),
    "vit": (vit, "is a vision or multimodal model", "Use a causal"),
    "unknown": (biogpt, "is of architecture 'biogpt', which is not known", "Use a causal"),
    "no head": (lambda: GPT2Model(GPT2Config(**SMALL)), "no language-model head", "AutoModelFor"),
    "classifier": (
        lambda: transformers.GPT2ForSequenceClassification(GPT2Config(**SMALL)),
        "GPT2ForSequenceClassification, which has no language-model head",
        "AutoModelForCausalLM",
    ),
    "quantised": (quantised, "is quantised, or its weights are not plain", "dequantize"),
    "int8": (
        lambda: with_codes(torch.int8),
        r"\(transformer.h.0.mlp.c_proj.weight is a Parameter of int8\)",
        "dequantize",
    ),
    "fp8": (lambda: with_codes(torch.float8_e4m3fn), "Parameter of float8_e4m3fn", "dequantize"),
    "subclass": (with_subclass, "c_proj.weight is a .* of float32", "dequantize"),
    "meta": (on_meta, r"\d+ weights of 'mine' are not in memory \(transformer.wte", "devices"),
    "pruned": (pruned, "has 1 blocks, but its config says 2", "num_hidden_layers"),
    "rebuilt": (without_block, "without the modules of gpt2", "AutoModelForCausalLM"),
    "nan": (not_finite, "hold NaN or infinity", "again"),
    "parallel": (lambda: nn.DataParallel(gpt2()), "is a torch DataParallel", "model.module"),
    "a module": (lambda: nn.Linear(2, 2), "is a torch Linear, expected a causal", "AutoModel"),
    "a name": (lambda: "gpt2", "is a builtins str, expected a causal", "load_model"),
    "nothing": (lambda: None, "is a builtins NoneType", "load_model"),
    "our own": (tiny, "is a editkit LanguageModel|is a", "load_model"),
}


@pytest.mark.parametrize("case", CASES)
def test_other_objects_than_causal_models_are_refused(case: str) -> None:
    build, message, hint = CASES[case]
    error = refused(build())
    assert re.search(message, error.message), error.message
    assert hint in str(error.hint)


class Compiled(nn.Module):
    """As ``torch.compile`` wraps a module, without the seconds that its import takes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


def test_the_error_for_a_compiled_model_names_the_original() -> None:
    assert "model._orig_mod" in str(refused(Compiled(gpt2())).hint)


class SlowTokenizer(transformers.PythonBackend):
    vocab_size = 3

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("gpt2", "the tokenizer of 'mine' is a builtins str, expected a tokenizer of transformers"),
        (SlowTokenizer(), r"is slow \(SlowTokenizer\)"),
    ],
)
def test_other_objects_than_fast_tokenizers_are_refused(tokens: Any, message: str) -> None:
    error = refused(gpt2(), tokens)
    assert re.search(message, error.message), error.message


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_model_needs_a_name(name: Any) -> None:
    assert "expected a text" in refused(gpt2(), name=name).message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_sound_models_are_accepted(dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_config(gpt2().config).to(dtype)
    taken = LanguageModel(model, tokenizer(), name="mine")
    assert taken.dtype == dtype
    assert (taken.source, taken.argument) == (None, "FOLDER")
