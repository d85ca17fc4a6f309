"""What is wrong with the files of a model, found before any weight is read.

The loader refuses the first problem, ``editkit doctor`` lists all of them. Of the weights only the
headers are read, and no machine-learning library is loaded to refuse what editkit cannot use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from editkit.errors import ModelError
from editkit.models.families import foreign_family
from editkit.models.model_files import INDEX, WEIGHTS, UnusableFile, check_present, read_json
from editkit.models.problems import Problem, ending, gguf_problem
from editkit.models.weight_files import weight_problems, without_weights

__all__ = [
    "config_problems",
    "listed_problems",
    "problems_of",
    "refuse",
]

ADAPTER = "adapter_config.json"
_QUANTISED = {  # files that quantisers write beside config.json
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}
_TOKENIZERS = (  # any of these groups is enough
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("spiece.model",),
    ("vocab.json", "merges.txt"),
)

_NEEDED = "Give the folder that holds config.json, model.safetensors and tokenizer.json."
_MERGE = (
    "Merge it into the base model with peft (PeftModel.from_pretrained(base, folder)"
    ".merge_and_unload()), save the result and its tokenizer with save_pretrained"
)


def refuse(folder: Path, shown: str) -> list[Problem]:
    """Refuse a folder that holds no model that editkit can use; what is left are warnings.

    Args:
        folder: The model's folder.
        shown: The model as the user typed it.

    Raises:
        ModelError: The first problem.
    """
    found = problems_of(folder, shown)
    for problem in found:
        if problem.verdict == "problem":
            raise ModelError(problem.message, hint=problem.hint)
    return found


def problems_of(folder: Path, shown: str) -> list[Problem]:
    """Everything that is wrong with the files of a model; the most basic first.

    Args:
        folder: The model's folder.
        shown: The model as the user typed it.
    """
    model = f"model {shown!r}"
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return [
            Problem(
                "model",
                f"the folder of {model} cannot be read: {reason}.",
                "Check its owner and permissions.",
            )
        ]
    if not names:
        return [Problem("model", f"the folder of {model} is empty.", _NEEDED)]
    if "config.json" not in names:
        return [_without_config(folder, names, model)]
    try:
        config = read_json(folder / "config.json")
    except UnusableFile as error:
        return [Problem("config", f"config.json of {model} {error.reason}.", error.hint)]
    found = [*_adapter(folder, names, model), *config_problems(config, shown, frozenset(names))]
    found += weight_problems(folder, names, model)
    found += _tokenizer_files(folder, names, model)
    return found


def listed_problems(names: frozenset[str], shown: str) -> list[Problem]:
    """What the names of a model's files show, where they are not here to be read.

    Args:
        names: The files of a model on the hub.
        shown: The model as the user typed it.
    """
    model, files = f"model {shown!r}", set(names)
    if ADAPTER in files:
        return _adapter(None, files, model)
    if "config.json" not in files:
        return [_without_config(None, files, model)]
    found = [] if files & {WEIGHTS, INDEX} else [without_weights(files, model)]
    return [*found, *_tokenizer_files(None, files, model)]


def config_problems(
    config: Mapping[str, Any], shown: str, files: frozenset[str] = frozenset()
) -> list[Problem]:
    """What in a model's ``config.json`` makes it one that editkit cannot edit.

    Args:
        config: What the file holds.
        shown: The model as the user typed it.
        files: Names of the files beside it.
    """
    model = f"model {shown!r}"
    found = []
    family = foreign_family(config)
    if family is not None:
        found.append(Problem("config", f"{model} {family.what}.", family.hint))
    if (method := _quantisation(config, files)) is not None:
        found.append(
            Problem(
                "config",
                f"{model} is quantised ({method}): its weights are codes, and a change to a weight "
                "cannot be added to them.",
                "Use the unquantised checkpoint that it was made from, or dequantise it with "
                "transformers (model.dequantize(), where the method has it) and save_pretrained it "
                "to a new folder.",
            )
        )
    if family is None and config.get("auto_map"):
        found.append(
            Problem(
                "config",
                f"config.json of {model} names code of its own (auto_map), which is never run: "
                f"transformers' own {config['model_type']} is used.",
                "Compare its output with that of the authors' code before you rely on it.",
                "warning",
            )
        )
    return found


# ---------------------------------------------------------------- folders without a model


def _without_config(folder: Path | None, names: set[str], model: str) -> Problem:
    """What a folder holds that has no config.json."""
    if ADAPTER in names:
        return _adapter(folder, names, model)[0]
    if ggufs := ending(names, ".gguf"):
        return gguf_problem(model, ggufs, "model")
    if "model_index.json" in names:
        return Problem(
            "model",
            f"{model} is a pipeline of diffusers, which makes images: it is no language model.",
            "Use a causal language model.",
        )
    hint = _NEEDED
    inner = sorted(_inner_models(folder)) if folder is not None else []
    if inner:
        hint = f"Did you mean {str(inner[-1])!r}?"
    elif {"params.json", "consolidated.00.pth", "consolidated.safetensors"} & names:
        hint = (
            "It looks like the original files of Llama or Mistral: use the copy of the model in "
            "transformers' layout, or convert it."
        )
    elif any(name.startswith("editor.") for name in names):
        hint = "It looks like a trained editor: give the model that it was trained for."
    return Problem("model", f"the folder of {model} holds no config.json.", hint)


def _inner_models(folder: Path) -> Iterator[Path]:
    """Models in the folders below, such as checkpoints of a training or a hub's snapshots."""
    for place in (folder, folder / "snapshots"):
        try:
            below = [path for path in place.iterdir() if (path / "config.json").is_file()]
        except OSError:
            continue
        yield from below


def _adapter(folder: Path | None, names: set[str], model: str) -> list[Problem]:
    """An adapter is applied by transformers where peft is installed, and silently not elsewhere."""
    if ADAPTER not in names:
        return []
    try:
        config = read_json(folder / ADAPTER) if folder is not None else {}
    except UnusableFile:
        config = {}
    kind = config.get("peft_type")
    what = f"a PEFT adapter ({kind})" if isinstance(kind, str) else "a PEFT adapter"
    if "config.json" in names:
        return [
            Problem(
                "adapter",
                f"the folder of {model} holds a model and {what} ({ADAPTER}): which of the two "
                "models it is would depend on whether the package peft is installed.",
                f"{_MERGE}; or move {ADAPTER} and the adapter's weights out of the folder to use "
                "the model without them.",
            )
        ]
    base = config.get("base_model_name_or_path")
    of = f" of {base!r}" if isinstance(base, str) and base else ""
    return [
        Problem(
            "model",
            f"the folder of {model} holds only {what}{of}, not a model.",
            f"{_MERGE}, and give that folder.",
        )
    ]


def _quantisation(config: Mapping[str, Any], files: frozenset[str]) -> str | None:
    """The method, in the words of the config."""
    for key in ("quantization_config", "compression_config"):
        stated = config.get(key)
        if stated is None:
            continue
        if isinstance(stated, Mapping):
            for name in ("quant_method", "quant_algo", "format"):
                if isinstance(stated.get(name), str):
                    return str(stated[name])
            if any(stated.get(f"load_in_{bits}bit") for bits in (4, 8)):
                return "bitsandbytes"
        return f"{key} in its config.json"
    return next((method for file, method in _QUANTISED.items() if file in files), None)


# ---------------------------------------------------------------- tokenizer


def _tokenizer_files(folder: Path | None, names: set[str], model: str) -> list[Problem]:
    if not any(names.issuperset(group) for group in _TOKENIZERS):
        return [
            Problem(
                "tokenizer",
                f"{model} has no tokenizer: its folder holds no tokenizer.json.",
                "Save the tokenizer that it was trained with into the folder, with "
                "AutoTokenizer.from_pretrained(...).save_pretrained(folder).",
            )
        ]
    # tokenizer.json holds megabytes: its content is looked at where it is loaded.
    for file, check in (("tokenizer.json", check_present), ("tokenizer_config.json", read_json)):
        if folder is not None and file in names:
            try:
                check(folder / file)
            except UnusableFile as error:
                return [Problem("tokenizer", f"{file} of {model} {error.reason}.", error.hint)]
    return []
