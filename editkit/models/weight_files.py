"""What is wrong with the files of a model's weights, from their names and headers."""

from __future__ import annotations

from pathlib import Path

from editkit.models.model_files import (
    INDEX,
    SAVE_AGAIN,
    WEIGHTS,
    UnusableFile,
    header_of,
    shards_of,
)
from editkit.models.problems import Problem, ending, gguf_problem, some

__all__ = ["weight_problems", "without_weights"]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OTHER_FRAMEWORKS = ("tf_model.h5", "flax_model.msgpack", "model.ckpt.index", "rust_model.ot")


def weight_problems(folder: Path, names: set[str], model: str) -> list[Problem]:
    """What is wrong with the weights in a folder.

    Args:
        folder: The folder.
        names: Of its files.
        model: How messages name the model.
    """
    if not names & {WEIGHTS, INDEX}:
        return [without_weights(names, model)]
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
                f"names ({some(absent)}).",
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
                f"({some(unkept)}).",
                "Download or copy the files again.",
            )
        )
    return found


def without_weights(names: set[str], model: str) -> Problem:
    """What a folder holds instead of safetensors under the names that transformers reads."""
    if ggufs := ending(names, ".gguf"):
        return gguf_problem(model, ggufs, "weights")
    others = [name for name in ending(names, ".safetensors") if not name.startswith("adapter")]
    if pieces := [name for name in others if name.startswith("model-") and "-of-" in name]:
        return Problem(
            "weights",
            f"{model} has files of weights ({some(pieces)}), but not their {INDEX}.",
            "Download or copy that file, too.",
        )
    if others:
        return Problem(
            "weights",
            f"{model} has neither {WEIGHTS} nor {INDEX}, only {some(others)}.",
            f"If that is the whole model in transformers' layout, rename it to {WEIGHTS}.",
        )
    if pickled := [name for end in _PICKLES for name in ending(names, end)]:
        return Problem(
            "weights",
            f"{model} holds no *.safetensors file, only pickled weights ({some(pickled)}), which "
            "are not read: a pickle can run code.",
            f"Convert it: {SAVE_AGAIN}.",
        )
    if foreign := [name for name in _OTHER_FRAMEWORKS if name in names]:
        return Problem(
            "weights",
            f"{model} holds no *.safetensors file, only weights of another framework "
            f"({some(foreign)}).",
            "Use a copy with safetensors weights, or convert it with an older transformers.",
        )
    return Problem(
        "weights",
        f"{model} holds no *.safetensors file: it has no weights.",
        f"Download or copy {WEIGHTS}, or save the model again with save_pretrained.",
    )
