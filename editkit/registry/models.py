"""Models by name: one that a plugin ships, a folder, or a hub id. Loads no weights by itself."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from editkit.errors import EditkitError, ModelError, PluginError
from editkit.mistakes import expect_path
from editkit.models.checkpoint import config_problems, raise_first
from editkit.models.gguf import is_gguf
from editkit.models.hub import hub_config, hub_folder, refuse_path
from editkit.models.loading import LoadOptions, load_folder
from editkit.models.model_files import (
    config_folder,
    files_at,
    fingerprint_of_files,
    problems_of_files,
    refuse_files,
    whole_folder,
)
from editkit.models.text_part import has_text_part, text_part
from editkit.registry.guard import Guard, PluginFailure
from editkit.registry.plugins import default_registry, resolve
from editkit.storage.resources import resource_path

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel
    from editkit.registry.specs import ModelSpec

__all__ = [
    "config_of",
    "fingerprint_of",
    "is_registered",
    "known_models",
    "load_model",
    "local_folder",
    "model_folder",
    "n_layers_of",
    "refuse_config",
]

_LAYERS = ("num_hidden_layers", "n_layer")


def load_model(
    name: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: str | Mapping[str, int | str] | None = None,
    attention: str | None = None,
    revision: str | None = None,
) -> LanguageModel:
    """Load a model and its tokenizer.

    Args:
        name: A model that a plugin ships (``atlas``), a folder, a GGUF file, or a hub id
            (``gpt2-xl``).
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: Where the model goes, as torch names it.
        device_map: Spreads the model over several devices, instead of ``device``: ``auto`` or
            another way of accelerate's, or devices by name of module.
        attention: ``sdpa`` or ``eager``, which differ in the last digits; None: the library's
            choice.
        revision: Branch, tag or commit of a hub model.

    Raises:
        ModelError: It cannot be found or read, is not a causal language model of a known family,
            its weights are not stored as safetensors, are quantised, incomplete or not finite, or
            it does not fit onto the devices.
    """
    expect_path(name, "name", "load_model(name)", "a model's name, folder or file")
    name = os.fspath(name)
    options = LoadOptions(dtype, device, device_map, attention)  # checked before any file is read
    files = model_folder(name, revision=revision)
    return load_folder(
        whole_folder(files, name),
        options,
        name=name,
        revision=revision,
        gguf=files if is_gguf(files) else None,
    )


def fingerprint_of(name: str, *, revision: str | None = None) -> str:
    """The fingerprint that the model would have once loaded, read from its files.

    Raises:
        ModelError: The model cannot be found, or its files are not those of a model that can be
            used.
    """
    files = model_folder(name, revision=revision)
    refuse_files(files, name)
    return fingerprint_of_files(files)


def model_folder(name: str, *, revision: str | None = None) -> Path:
    """The model's folder or GGUF file; a hub model is downloaded, or found in the hub's cache.

    Raises:
        ModelError: The model cannot be found.
    """
    folder = local_folder(name)
    if folder is not None:
        return folder
    known = known_models()
    refuse_path(name, known)
    return hub_folder(name, revision, known)


def n_layers_of(name: str, *, revision: str | None = None, download: bool = False) -> int | None:
    """The number of layers in a model's ``config.json``; no weights are read.

    Args:
        name: A registered name, a folder, or a hub id.
        revision: Branch, tag or commit of a hub model.
        download: Whether to download this one file if it is not in the hub's cache.

    Returns:
        None if there is no such model, no such file, or no such entry in it.
    """
    config = config_of(name, revision=revision, download=download) or {}
    if has_text_part(config):
        with contextlib.suppress(ModelError):  # loading reports it
            config = text_part(config)
    return next((config[key] for key in _LAYERS if isinstance(config.get(key), int)), None)


def config_of(
    name: str, *, revision: str | None = None, download: bool = False
) -> dict[str, Any] | None:
    """The content of a model's ``config.json``; None if there is none or it cannot be read.

    Arguments as for :func:`n_layers_of`.
    """
    files = local_folder(name)
    try:
        if files is not None:
            file: Path | None = config_folder(files, name) / "config.json"
        else:
            file = hub_config(name, revision, download)
        config = json.loads(file.read_text(encoding="utf-8")) if file else None
    except (ModelError, OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def is_registered(name: str) -> bool:
    """Whether a plugin ships a model under that name."""
    return name in default_registry().names("model")


def local_folder(name: str) -> Path | None:
    """The folder or GGUF file of a registered model, or the one that the name is the path of."""
    if is_registered(name):
        spec = cast("ModelSpec", default_registry().get("model", name).spec)
        if spec.locate is not None:
            return files_at(_located(name, spec.locate))
        return resource_path(spec.folder or "", owner=f"model {name!r}")
    return files_at(Path(name)) if name else None


def _located(name: str, function: str) -> Path:
    """The path that a plugin's function returns for its model.

    Raises:
        ModelError: The function raised it: the model is not on this machine.
        PluginError: The function raised something else, or returned no existing path.
    """
    what = f"model {name!r}"
    locate = resolve(function, what=what)
    try:
        with Guard(f"looking for {what}"):
            path = locate()
    except PluginFailure as failure:
        if isinstance(failure.error, EditkitError):
            raise failure.error from None
        raise PluginError(
            f"{function}, which finds {what}, failed: {failure}.",
            hint="Run again with --debug for the traceback, and report it to the plugin's author.",
        ) from failure.__cause__
    if not isinstance(path, Path) or files_at(path) is None:
        raise PluginError(
            f"{function}, which finds {what}, returned {path!r:.200}, expected the Path of an "
            "existing folder or GGUF file.",
            hint="Report this to the plugin's author.",
        )
    return path


def known_models() -> str:
    """The names of registered models, for hints."""
    try:
        names = ", ".join(default_registry().names("model"))
    except PluginError:
        names = ""
    return f"Registered models: {names or 'none'}."


def refuse_config(name: str) -> None:
    """Refuse a name or config that cannot be a model; weights and tokenizer may be missing.

    Args:
        name: A registered name, a folder, or a hub id (its config is not downloaded).

    Raises:
        ModelError: It is a path to nothing, or its config describes no model that can be edited.
    """
    folder = local_folder(name)
    if folder is None:
        refuse_path(name, known_models())
        config = config_of(name)
        problems = config_problems(config, name) if config is not None else []
    else:
        problems = [
            p for p in problems_of_files(folder, name) if p.topic not in ("weights", "tokenizer")
        ]
    raise_first(problems)
