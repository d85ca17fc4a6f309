"""Whether a model in memory is one that editors can work on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editkit.errors import ModelError
from editkit.models.architectures import architecture_of
from editkit.models.families import foreign_family

__all__ = ["check_live", "check_tokenizer"]

_FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_MERGE = "Merge it first: model = model.merge_and_unload()."


def check_live(hf: object, name: str) -> None:
    """Refuse what is not a plain causal language model of a known family, with its weights.

    Args:
        hf: What a user gives for the model.
        name: How messages name it.

    Raises:
        ModelError: It is something else, or is wrapped, adapted, quantised or without values.
    """
    if not isinstance(name, str) or not name:
        raise ModelError(f"the model's name is {name!r}, expected a text.", hint="Give a name.")
    _check_adapters(hf, name)
    if not isinstance(hf, PreTrainedModel):
        raise ModelError(
            f"model {name!r} is {_a(hf)}, expected a causal language model of transformers.",
            hint=_unwrapped(hf),
        )
    _check_quantised(hf, name)
    config = {**hf.config.to_dict(), "model_type": hf.config.model_type}
    family = foreign_family({key: v for key, v in config.items() if key != "auto_map"})
    if family is not None:
        raise ModelError(f"model {name!r} {family.what}.", hint=family.hint)
    architecture = architecture_of(hf.config)
    if hf.get_output_embeddings() is None:
        raise ModelError(
            f"model {name!r} is {_a(hf)}, which has no language-model head.",
            hint="Load it with AutoModelForCausalLM.",
        )
    try:
        blocks: Any = hf.get_submodule(architecture.blocks)
        hf.get_submodule(architecture.path(0, architecture.mlp_out))
    except AttributeError as error:
        raise ModelError(
            f"model {name!r} is {_a(hf)}, which is not built as transformers' "
            f"{hf.config.model_type}: {error}.",
            hint="Load it with AutoModelForCausalLM, without code of its own.",
        ) from None
    if len(blocks) != hf.config.num_hidden_layers:
        raise ModelError(
            f"model {name!r} has {len(blocks)} blocks, but its config says "
            f"{hf.config.num_hidden_layers}.",
            hint="Set model.config.num_hidden_layers to the number of blocks.",
        )
    absent = [path for path, weight in hf.named_parameters() if weight.is_meta]
    if absent:
        raise ModelError(
            f"{len(absent)} weights of {name!r} are not in memory ({absent[0]} first): an edit "
            "needs all of them in place.",
            hint="Load the model onto devices that have room for all its weights.",
        )


def check_tokenizer(tokenizer: object, name: str) -> None:
    """Refuse what is not a fast tokenizer, or has no tokens.

    Raises:
        ModelError: It is slow, empty, or something else.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(
            f"the tokenizer of {name!r} is {_a(tokenizer)}, expected one of transformers.",
            hint="Load it with AutoTokenizer.",
        )
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of {name!r} is a slow one ({type(tokenizer).__name__}), which knows no "
            "character offsets.",
            hint="Save the model's folder with a tokenizer.json.",
        )
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelError(
            f"the tokenizer of {name!r} has no tokens besides special ones: its files are missing.",
            hint="Save the tokenizer that the model was trained with into the model's folder.",
        )


def _check_adapters(hf: object, name: str) -> None:
    """A model that peft wraps, or into whose layers it has put adapters."""
    wrapped = any(base.__module__.partition(".")[0] == "peft" for base in type(hf).__mro__)
    inside: list[str] = []
    if isinstance(hf, nn.Module):
        inside = [
            path
            for path, module in hf.named_modules()
            if type(module).__module__.partition(".")[0] == "peft"
        ]
    if wrapped:
        raise ModelError(
            f"model {name!r} is a {type(hf).__name__} of peft: its adapters are not among the "
            "weights that editors read and write.",
            hint=_MERGE,
        )
    if inside or getattr(hf, "_hf_peft_config_loaded", False):
        where = f" ({inside[0]} first)" if inside else ""
        raise ModelError(
            f"model {name!r} has adapters of peft in its layers{where}: they are not among the "
            "weights that editors read and write.",
            hint="Merge them first: wrap the base model with peft.PeftModel.from_pretrained and "
            "take its merge_and_unload(); or load the model without adapters.",
        )


def _check_quantised(hf: PreTrainedModel, name: str) -> None:
    stated = getattr(hf.config, "quantization_config", None)
    wrong = next(
        (
            (path, weight)
            for path, weight in hf.named_parameters()
            if weight.dtype not in _FLOATING or type(weight) is not nn.Parameter
        ),
        None,
    )
    if stated is None and getattr(hf, "hf_quantizer", None) is None and wrong is None:
        return
    where = ""
    if wrong is not None:
        dtype = str(wrong[1].dtype).removeprefix("torch.")
        where = f" ({wrong[0]} is a {type(wrong[1]).__name__} of {dtype})"
    raise ModelError(
        f"model {name!r} is quantised, or its weights are not plain tensors of floats{where}: a "
        "change to a weight cannot be added to codes.",
        hint="Load the unquantised checkpoint, or dequantise it first: model.dequantize().",
    )


def _unwrapped(hf: object) -> str:
    if hasattr(hf, "_orig_mod"):
        return "Give the model from before torch.compile: model._orig_mod."
    if isinstance(getattr(hf, "module", None), PreTrainedModel):
        return "Give the wrapped model: model.module."
    return "Load it with AutoModelForCausalLM, or by name with editkit.load_model."


def _a(thing: object) -> str:
    return f"a {type(thing).__module__.partition('.')[0]} {type(thing).__name__}"
