"""A model's folder: reading its files, and what is wrong with them.

Loading refuses the first problem; ``editkit doctor`` lists them all. Only the headers of the weight
files are read, and no machine-learning library is imported.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from editkit.errors import ModelError
from editkit.models.foreign import foreign_family
from editkit.models.text_part import has_text_part, text_part

__all__ = [
    "Problem",
    "TensorHeader",
    "UnusableFile",
    "config_problems",
    "first_bytes",
    "headers_of",
    "listed_problems",
    "problems_of",
    "raise_first",
    "read_json",
    "refuse",
    "some",
]

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_LFS = b"version https://git-lfs.github.com/spec/"
_LARGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors library
_AGAIN = "Download or copy it again."
_SAVE_AGAIN = (
    "load it once with transformers on a machine that you trust, and call save_pretrained on the "
    "model and its tokenizer"
)
_ADAPTER = "adapter_config.json"
_QUANTISED = {  # files that quantisers write next to config.json
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}
_TOKENIZERS = (  # one of these groups is enough
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
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OTHER_FRAMEWORKS = ("tf_model.h5", "flax_model.msgpack", "model.ckpt.index", "rust_model.ot")
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem with a model's files.

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


def _gguf_problem(model: str, files: list[str], topic: str, *, on_hub: bool) -> Problem:
    """The problem that a folder or a hub model has GGUF files, and none of them is named."""
    if on_hub:
        return Problem(
            topic,
            f"{model} has GGUF files ({some(files)}), and editkit does not choose one of them.",
            "Download one with 'hf download HUB-ID FILE.gguf --local-dir FOLDER', and give its "
            "path.",
        )
    return Problem(
        topic,
        f"the folder of {model} holds {len(files)} GGUF files ({some(files)}), expected one.",
        "Give the path of the file.",
    )


def _ending(names: Iterable[str], end: str) -> list[str]:
    """The names with an ending, in upper or lower case."""
    return sorted(name for name in names if name.lower().endswith(end))


def some(names: list[str]) -> str:
    """The first three names, and the number of the others."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def raise_first(problems: Iterable[Problem]) -> None:
    """Raise the first problem that is not a warning, if there is one.

    Raises:
        ModelError: There is one.
    """
    for problem in problems:
        if problem.verdict == "problem":
            raise ModelError(problem.message, hint=problem.hint)


# ---------------------------------------------------------------- a whole folder


def refuse(folder: Path, shown: str) -> list[Problem]:
    """The warnings about a model's folder; a problem is an error.

    Args:
        folder: The model's folder.
        shown: The model as the user typed it.

    Raises:
        ModelError: The folder has no model that editkit can use; the error is the first problem.
    """
    problems = problems_of(folder, shown)
    raise_first(problems)
    return problems


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
    problems = [*_adapter(folder, names, model), *config_problems(config, shown, frozenset(names))]
    problems += _weight_problems(folder, names, model)
    problems += _tokenizer_files(folder, names, model)
    return problems


def listed_problems(names: frozenset[str], shown: str) -> list[Problem]:
    """Problems that show in the file names of a model that has not been downloaded.

    Args:
        names: The files of a model on the hub.
        shown: The model as the user typed it.
    """
    model, files = f"model {shown!r}", set(names)
    if _ADAPTER in files:
        return _adapter(None, files, model)
    if "config.json" not in files:
        return [_without_config(None, files, model)]
    problems = [] if files & {_WEIGHTS, _INDEX} else [_without_weights(None, files, model)]
    return [*problems, *_tokenizer_files(None, files, model)]


def config_problems(
    config: Mapping[str, Any], shown: str, files: frozenset[str] = frozenset()
) -> list[Problem]:
    """Problems with a model's ``config.json``: its family, quantisation, code of its own.

    Args:
        config: The file's content.
        shown: The model as the user typed it.
        files: Names of the files next to it.
    """
    model = f"model {shown!r}"
    problems = []
    quantised = _quantisation(config, files)
    if has_text_part(config):
        model = f"the text part of {model} ({config['model_type']})"
        try:
            config = text_part(config)
        except ModelError as error:
            return [Problem("config", error.message, error.hint or "")]
        problems.append(
            Problem(
                "config",
                f"only {model} is loaded, a model of {config['model_type']}: it reads no images.",
                "For texts, the results are those of the whole model.",
                "warning",
            )
        )
    family = foreign_family(config)
    if family is not None:
        problems.append(Problem("config", f"{model} {family.reason}.", family.hint))
    if (method := quantised or _quantisation(config, files)) is not None:
        problems.append(
            Problem(
                "config",
                f"{model} is quantised ({method}): its weights are stored as codes, and an edit "
                "cannot be added to codes.",
                "Use the unquantised checkpoint that it was made from, or dequantise it with "
                "transformers (model.dequantize(), where the method has it) and save_pretrained it "
                "to a new folder.",
            )
        )
    if family is None and config.get("auto_map"):
        problems.append(
            Problem(
                "config",
                f"config.json of {model} names its own code (auto_map), which editkit never runs: "
                f"the {config['model_type']} of transformers is used.",
                "Compare its output with the authors' code before you rely on it.",
                "warning",
            )
        )
    return problems


# ---------------------------------------------------------------- folders without a model


def _without_config(folder: Path | None, names: set[str], model: str) -> Problem:
    """What a folder without a config.json contains instead."""
    if _ADAPTER in names:
        return _adapter(folder, names, model)[0]
    if ggufs := _ending(names, ".gguf"):
        return _gguf_problem(model, ggufs, "model", on_hub=folder is None)
    if "model_index.json" in names:
        return Problem(
            "model",
            f"{model} is a diffusers pipeline, which generates images.",
            "Use a causal language model.",
        )
    hint = _NEEDED
    inner = sorted(_inner_models(folder)) if folder is not None else []
    if inner:
        hint = f"Did you mean {str(inner[-1])!r}?"
    elif {"params.json", "consolidated.00.pth", "consolidated.safetensors"} & names:
        hint = (
            "It looks like the original files of Llama or Mistral: use the version in "
            "transformers' layout, or convert it."
        )
    elif any(name.startswith("editor.") for name in names):
        hint = "It looks like a trained editor: give the model that it was trained for."
    return Problem("model", f"the folder of {model} holds no config.json.", hint)


def _inner_models(folder: Path) -> Iterator[Path]:
    """Models one folder down: checkpoints of a training run, snapshots of the hub."""
    for place in (folder, folder / "snapshots"):
        try:
            below = [path for path in place.iterdir() if (path / "config.json").is_file()]
        except OSError:
            continue
        yield from below


def _adapter(folder: Path | None, names: set[str], model: str) -> list[Problem]:
    """Refuse adapters: transformers applies them if peft is installed, and skips them if not."""
    if _ADAPTER not in names:
        return []
    try:
        config = read_json(folder / _ADAPTER) if folder is not None else {}
    except UnusableFile:
        config = {}
    kind = config.get("peft_type")
    what = f"a PEFT adapter ({kind})" if isinstance(kind, str) else "a PEFT adapter"
    if "config.json" in names:
        return [
            Problem(
                "adapter",
                f"the folder of {model} holds a model and {what} ({_ADAPTER}): whether the adapter "
                "is applied would depend on whether peft is installed.",
                f"{_MERGE}; or move {_ADAPTER} and the adapter's weights out of the folder to use "
                "the model without the adapter.",
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
    """The quantisation method as the config names it."""
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
                f"{model} has no tokenizer: its folder has no tokenizer.json.",
                "Save the tokenizer that it was trained with to the folder: "
                "AutoTokenizer.from_pretrained(...).save_pretrained(folder).",
            )
        ]
    # tokenizer.json holds megabytes: loading checks its content.
    for file, check in (("tokenizer.json", _check_present), ("tokenizer_config.json", read_json)):
        if folder is not None and file in names:
            try:
                check(folder / file)
            except UnusableFile as error:
                return [Problem("tokenizer", f"{file} of {model} {error.reason}.", error.hint)]
    return []


# ---------------------------------------------------------------- weight files


def _weight_problems(folder: Path, names: set[str], model: str) -> list[Problem]:
    """What is wrong with the weights in a folder.

    Args:
        folder: The folder.
        names: Of its files.
        model: How messages name the model.
    """
    if not names & {_WEIGHTS, _INDEX}:
        return [_without_weights(folder, names, model)]
    problems = []
    if {_WEIGHTS, _INDEX} <= names:
        problems.append(
            Problem(
                "weights",
                f"{model} has both {_WEIGHTS} and {_INDEX}: the shards are not read.",
                "Remove the one that you do not want.",
                "warning",
            )
        )
    try:
        files, wanted = _shards_of(folder)
    except UnusableFile as error:
        return [*problems, Problem("weights", f"{_INDEX} of {model} {error.reason}.", error.hint)]
    if absent := [file for file in files if file not in names]:
        return [
            *problems,
            Problem(
                "weights",
                f"{model} lacks {len(absent)} of the {len(files)} weight files in its {_INDEX} "
                f"({some(absent)}).",
                "Download or copy the missing files.",
            ),
        ]
    holders: dict[str, str] = {}
    for file in files:
        try:
            header = _header_of(folder / file)
        except UnusableFile as error:
            problems.append(Problem("weights", f"{file} of {model} {error.reason}.", error.hint))
            continue
        if twice := sorted(set(header) & set(holders)):
            problems.append(
                Problem(
                    "weights",
                    f"two files of {model} hold the weight {twice[0]!r}: {holders[twice[0]]} and "
                    f"{file}.",
                    f"Save the model again: {_SAVE_AGAIN}.",
                )
            )
        holders.update(dict.fromkeys(header, file))
    unkept = sorted(name for name in wanted if name not in holders)
    if unkept and not any(problem.verdict == "problem" for problem in problems):
        problems.append(
            Problem(
                "weights",
                f"{_INDEX} of {model} names {len(unkept)} weights that are in none of its files "
                f"({some(unkept)}).",
                "Download or copy the files again.",
            )
        )
    return problems


def _without_weights(folder: Path | None, names: set[str], model: str) -> Problem:
    """What a folder contains instead of the safetensors files that transformers reads."""
    if ggufs := _ending(names, ".gguf"):
        return _gguf_problem(model, ggufs, "weights", on_hub=folder is None)
    others = [name for name in _ending(names, ".safetensors") if not name.startswith("adapter")]
    if pieces := [name for name in others if name.startswith("model-") and "-of-" in name]:
        return Problem(
            "weights",
            f"{model} has weight files ({some(pieces)}), but not their {_INDEX}.",
            "Download or copy that file too.",
        )
    if others:
        return Problem(
            "weights",
            f"{model} has neither {_WEIGHTS} nor {_INDEX}, only {some(others)}.",
            f"If that is the whole model in transformers' layout, rename it to {_WEIGHTS}.",
        )
    if pickled := [name for end in _PICKLES for name in _ending(names, end)]:
        return Problem(
            "weights",
            f"{model} has no *.safetensors file, only pickled weights ({some(pickled)}), which "
            "editkit does not read: a pickle can run code.",
            f"Convert it: {_SAVE_AGAIN}.",
        )
    if foreign := [name for name in _OTHER_FRAMEWORKS if name in names]:
        return Problem(
            "weights",
            f"{model} has no *.safetensors file, only weights of another framework "
            f"({some(foreign)}).",
            "Use a copy with safetensors weights, or convert it with an older transformers.",
        )
    return Problem(
        "weights",
        f"{model} has no *.safetensors file, so no weights.",
        f"Download or copy {_WEIGHTS}, or save the model again with save_pretrained.",
    )


# ---------------------------------------------------------------- reading files


@dataclasses.dataclass(frozen=True)
class TensorHeader:
    """A tensor in the header of a safetensors file: its type (``F32``) and its shape."""

    dtype: str
    shape: tuple[int, ...]


class UnusableFile(Exception):
    """Why a file cannot be used (``"is a folder"``), and what to do."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def headers_of(folder: Path) -> dict[str, TensorHeader]:
    """Type and shape of every tensor in a folder that has no :func:`problems_of`."""
    headers: dict[str, TensorHeader] = {}
    for file in _shards_of(folder)[0]:
        headers.update(_header_of(folder / file))
    return headers


def _shards_of(folder: Path) -> tuple[list[str], list[str]]:
    """The weight files, and the weights that the index names; a single file has no index."""
    if (folder / _WEIGHTS).exists() or (folder / _WEIGHTS).is_symlink():
        return [_WEIGHTS], []
    index = read_json(folder / _INDEX)
    placed = index.get("weight_map")
    if (
        not isinstance(placed, Mapping)
        or not placed
        or not all(isinstance(file, str) and Path(file).name == file for file in placed.values())
    ):
        raise UnusableFile("has no weight_map from weights to files", _AGAIN)
    return sorted(set(placed.values())), list(placed)


def _header_of(path: Path) -> dict[str, TensorHeader]:
    """The header of a safetensors file, checked against the file's size."""
    start, size = first_bytes(path, 8), path.stat().st_size
    n = int.from_bytes(start, "little")
    if size < 8:
        raise UnusableFile(f"is truncated: it has {size} bytes", _AGAIN)
    if n > min(size - 8, _LARGEST_HEADER):
        if start.startswith((b"PK", b"\x80")):
            raise UnusableFile(
                "is a renamed pickle, not safetensors", f"Convert it: {_SAVE_AGAIN}."
            )
        raise UnusableFile("is truncated, or is not a safetensors file", _AGAIN)
    try:
        content = json.loads(first_bytes(path, 8 + n)[8:])
        entries = {name: entry for name, entry in content.items() if name != "__metadata__"}
        headers = {
            name: TensorHeader(str(entry["dtype"]), tuple(int(side) for side in entry["shape"]))
            for name, entry in entries.items()
        }
        end = 8 + n + max((int(e["data_offsets"][1]) for e in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise UnusableFile("is damaged: its header cannot be read", _AGAIN) from None
    if size != end:
        what = "truncated" if size < end else "damaged"
        raise UnusableFile(f"is {what}: it has {size:,} bytes, and its header says {end:,}", _AGAIN)
    return headers


def _check_present(path: Path) -> None:
    """Refuse a file that is missing or unreadable, or is a git-lfs pointer.

    Raises:
        UnusableFile: It is one of these.
    """
    first_bytes(path, len(_LFS))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UnusableFile: The file does not hold one.
    """
    _check_present(path)
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError:
        raise UnusableFile("is not JSON: it is not UTF-8", _AGAIN) from None
    except RecursionError:
        raise UnusableFile("is nested too deeply", _AGAIN) from None
    except ValueError as error:
        raise UnusableFile(f"is not JSON: {error}", _AGAIN) from None
    if not isinstance(content, dict):
        raise UnusableFile(f"holds {type(content).__name__}, expected an object", _AGAIN)
    return content


def first_bytes(path: Path, n: int) -> bytes:
    """The first ``n`` bytes of a file.

    Raises:
        UnusableFile: It cannot be read, or is a pointer of git-lfs.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(n)
    except FileNotFoundError:
        raise UnusableFile(
            "is a link to a file that does not exist", "Download it again."
        ) from None
    except IsADirectoryError:
        raise UnusableFile("is a folder, expected a file", _AGAIN) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnusableFile(
            f"cannot be read: {reason}", "Check its owner and permissions."
        ) from None
    if start.startswith(_LFS[:n]):
        raise _lfs()
    return start


def _lfs() -> UnusableFile:
    return UnusableFile(
        "is a pointer of git-lfs, not the file itself", "Run 'git lfs pull' in the folder."
    )
