"""A model's files: a folder in transformers' layout, or one GGUF file."""

from __future__ import annotations

from pathlib import Path

from editkit.errors import EditkitError
from editkit.models.checkpoint import (
    Problem,
    config_problems,
    problems_of,
    raise_first,
    read_json,
)
from editkit.models.dequantised import dequantised, described
from editkit.models.fingerprints import fingerprint_of_folder, fingerprint_of_gguf
from editkit.models.gguf import gguf_in, gguf_problems, is_gguf

__all__ = [
    "config_folder",
    "files_at",
    "fingerprint_of_files",
    "problems_of_files",
    "refuse_files",
    "whole_folder",
]


def files_at(path: Path) -> Path | None:
    """The folder or GGUF file that a path names; None if there is neither.

    A folder without safetensors that holds one GGUF file stands for that file.
    """
    if path.is_dir():
        return gguf_in(path)
    return path if is_gguf(path) else None


def problems_of_files(files: Path, shown: str) -> list[Problem]:
    """Everything that is wrong with a model's files; the most basic first.

    Args:
        files: Its folder or GGUF file.
        shown: The model as the user typed it.
    """
    if not is_gguf(files):
        return problems_of(files, shown)
    if problems := gguf_problems(files, shown):
        return problems
    try:
        config = read_json(described(files, shown) / "config.json")
    except EditkitError as error:
        topic = "tokenizer" if "tokenizer" in error.message else "config"
        return [Problem(topic, error.message, error.hint or "")]
    return config_problems(config, shown)


def refuse_files(files: Path, shown: str) -> list[Problem]:
    """The warnings about a model's files; a problem is an error.

    Arguments as for :func:`problems_of_files`.

    Raises:
        ModelError: editkit cannot use the model; the error is the first problem.
    """
    problems = problems_of_files(files, shown)
    raise_first(problems)
    return problems


def config_folder(files: Path, shown: str) -> Path:
    """The folder with a model's config and tokenizer. Arguments as for :func:`problems_of_files`.

    Raises:
        ModelError: It is a GGUF file that cannot be read.
    """
    return described(files, shown) if is_gguf(files) else files


def whole_folder(files: Path, shown: str) -> Path:
    """The folder with a whole model; a GGUF file is dequantised into the cache, once.

    Arguments as for :func:`problems_of_files`.

    Raises:
        ModelError: It is a GGUF file that cannot be read.
        CacheError: The cache cannot be written, or has too little space.
    """
    return dequantised(files, shown) if is_gguf(files) else files


def fingerprint_of_files(files: Path) -> str:
    """Hexadecimal digest of a model's content, whatever its name and place.

    Raises:
        ModelError: The weights are missing or damaged.
    """
    return fingerprint_of_gguf(files) if is_gguf(files) else fingerprint_of_folder(files)
