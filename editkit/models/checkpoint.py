"""What is wrong with the files of a model, found before any weight is read.

The loader refuses the first problem, ``editkit doctor`` lists all of them. Of the weights only the
headers are read, and no machine-learning library is loaded to refuse what editkit cannot use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from editkit.errors import ModelError
from editkit.models.families import foreign_family
from editkit.models.finding import config_of, local_folder, refuse_path
from editkit.models.model_files import (
    INDEX,
    SAVE_AGAIN,
    WEIGHTS,
    UnusableFile,
    header_of,
    read_json,
    shards_of,
)

__all__ = ["Problem", "config_problems", "problems_of", "refuse", "refuse_config"]

ADAPTER = "adapter_config.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OTHER_FRAMEWORKS = ("tf_model.h5", "flax_model.msgpack", "model.ckpt.index", "rust_model.ot")
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
_SHOWN = 3

_NEEDED = "Give the folder that holds config.json, model.safetensors and tokenizer.json."
_MERGE = (
    "Merge it into the base model with peft (PeftModel.from_pretrained(base, folder)"
    ".merge_and_unload()), save the result and its tokenizer with save_pretrained"
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something about a model's files.

    Attributes:
        topic: ``model``, ``adapter``, ``config``, ``weights`` or ``tokenizer``.
        message: What is wrong.
        hint: What to do.
        verdict: ``problem`` if the model cannot be used, ``warning`` if it can.
    """

    topic: str
    message: str
    hint: str
    verdict: Literal["problem", "warning"] = "problem"

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"


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


def refuse_config(name: str) -> None:
    """Refuse what cannot be a model, as far as its config says; weights and tokenizer may lack.

    Args:
        name: A registered name, a folder, or a hub id, of which the config is not downloaded.

    Raises:
        ModelError: It is a path to nothing, or its config describes no model that can be edited.
    """
    folder = local_folder(name)
    if folder is None:
        refuse_path(name)
        config = config_of(name)
        found = config_problems(config, name) if config is not None else []
    else:
        found = [p for p in problems_of(folder, name) if p.topic not in ("weights", "tokenizer")]
    for problem in found:
        if problem.verdict == "problem":
            raise ModelError(problem.message, hint=problem.hint)


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
    found += _weight_files(folder, names, model)
    found += _tokenizer_files(folder, names, model)
    return found


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


def _without_config(folder: Path, names: set[str], model: str) -> Problem:
    """What a folder holds that has no config.json."""
    if ADAPTER in names:
        return _adapter(folder, names, model)[0]
    if ggufs := _ending(names, ".gguf"):
        return _gguf(model, ggufs, "model")
    if "model_index.json" in names:
        return Problem(
            "model",
            f"{model} is a pipeline of diffusers, which makes images: it is no language model.",
            "Use a causal language model.",
        )
    hint = _NEEDED
    inner = sorted(path for path in _inner_models(folder))
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


def _adapter(folder: Path, names: set[str], model: str) -> list[Problem]:
    """An adapter is applied by transformers where peft is installed, and silently not elsewhere."""
    if ADAPTER not in names:
        return []
    try:
        config = read_json(folder / ADAPTER)
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


def _gguf(model: str, files: list[str], topic: str) -> Problem:
    return Problem(
        topic,
        f"the weights of {model} are GGUF ({_some(files)}), which is not read.",
        "Use the checkpoint that it was made from; or convert it to safetensors with transformers: "
        "AutoModelForCausalLM and AutoTokenizer .from_pretrained(folder, gguf_file=FILE), then "
        "save_pretrained both to a new folder.",
    )


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


# ---------------------------------------------------------------- weights


def _weight_files(folder: Path, names: set[str], model: str) -> list[Problem]:
    if not names & {WEIGHTS, INDEX}:
        return [_without_weights(names, model)]
    found = []
    if {WEIGHTS, INDEX} <= names:
        found.append(
            Problem(
                "weights",
                f"{model} has both {WEIGHTS} and {INDEX}: the former is read, the shards are not.",
                "Remove the one that is not meant.",
                "warning",
            )
        )
    try:
        files, wanted = shards_of(folder)
    except UnusableFile as error:
        return [*found, Problem("weights", f"{INDEX} of {model} {error.reason}.", error.hint)]
    if absent := [file for file in files if file not in names]:
        return [
            *found,
            Problem(
                "weights",
                f"{model} lacks {len(absent)} of {len(files)} files of weights that its {INDEX} "
                f"names ({_some(absent)}).",
                "Download or copy the missing files.",
            ),
        ]
    holders: dict[str, str] = {}
    for file in files:
        try:
            header = header_of(folder / file)
        except UnusableFile as error:
            found.append(Problem("weights", f"{file} of {model} {error.reason}.", error.hint))
            continue
        if twice := sorted(set(header) & set(holders)):
            found.append(
                Problem(
                    "weights",
                    f"two files of {model} hold the weight {twice[0]!r}: {holders[twice[0]]} and "
                    f"{file}.",
                    f"Save the model again: {SAVE_AGAIN}.",
                )
            )
        holders.update(dict.fromkeys(header, file))
    unkept = sorted(name for name in wanted if name not in holders)
    if unkept and not any(problem.verdict == "problem" for problem in found):
        found.append(
            Problem(
                "weights",
                f"{INDEX} of {model} names {len(unkept)} weights that its files do not hold "
                f"({_some(unkept)}).",
                "Download or copy the files again.",
            )
        )
    return found


def _without_weights(names: set[str], model: str) -> Problem:
    """What a folder holds instead of safetensors under the names that transformers reads."""
    if ggufs := _ending(names, ".gguf"):
        return _gguf(model, ggufs, "weights")
    others = [name for name in _ending(names, ".safetensors") if not name.startswith("adapter")]
    if pieces := [name for name in others if name.startswith("model-") and "-of-" in name]:
        return Problem(
            "weights",
            f"{model} has files of weights ({_some(pieces)}), but not their {INDEX}.",
            "Download or copy that file, too.",
        )
    if others:
        return Problem(
            "weights",
            f"{model} has neither {WEIGHTS} nor {INDEX}, only {_some(others)}.",
            f"If that is the whole model in transformers' layout, rename it to {WEIGHTS}.",
        )
    if pickled := [name for end in _PICKLES for name in _ending(names, end)]:
        return Problem(
            "weights",
            f"{model} holds no *.safetensors file, only pickled weights ({_some(pickled)}), which "
            "are not read: a pickle can run code.",
            f"Convert it: {SAVE_AGAIN}.",
        )
    if foreign := [name for name in _OTHER_FRAMEWORKS if name in names]:
        return Problem(
            "weights",
            f"{model} holds no *.safetensors file, only weights of another framework "
            f"({_some(foreign)}).",
            "Use a copy with safetensors weights, or convert it with an older transformers.",
        )
    return Problem(
        "weights",
        f"{model} holds no *.safetensors file: it has no weights.",
        f"Download or copy {WEIGHTS}, or save the model again with save_pretrained.",
    )


# ---------------------------------------------------------------- tokenizer


def _tokenizer_files(folder: Path, names: set[str], model: str) -> list[Problem]:
    if not any(names.issuperset(group) for group in _TOKENIZERS):
        return [
            Problem(
                "tokenizer",
                f"{model} has no tokenizer: its folder holds no tokenizer.json.",
                "Save the tokenizer that it was trained with into the folder, with "
                "AutoTokenizer.from_pretrained(...).save_pretrained(folder).",
            )
        ]
    for file in ("tokenizer.json", "tokenizer_config.json"):
        if file in names:
            try:
                read_json(folder / file)
            except UnusableFile as error:
                return [Problem("tokenizer", f"{file} of {model} {error.reason}.", error.hint)]
    return []


def _ending(names: set[str], end: str) -> list[str]:
    return sorted(name for name in names if name.lower().endswith(end))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
