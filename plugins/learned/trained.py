"""Trained editors on disk: one safetensors file with the weights and everything known about them.

A trained editor belongs to the model that it was trained on. Any other model is refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from editkit import CacheError, ConfigError, DeltaError, LanguageModel
from editkit.errors import first_line
from editkit.storage.cache import read_safetensors, write_atomically
from editkit.storage.digests import digest_of_tensors, key_of
from editkit.storage.strict_json import parse_json
from editkit_plugins.learned.config import (
    FILE,
    METADATA_FILE,
    LearnedConfig,
    how_to_train,
    untrained,
)
from editkit_plugins.learned.ke import KeNetwork
from editkit_plugins.learned.mend import MendNetwork
from editkit_plugins.learned.networks import EditNetwork, edited_matrices
from editkit_plugins.learned.settings import KeSettings, MendSettings

_SCHEMA = 1
METADATA_DIGEST = "facts_digest"
"""Metadata key of the digest over all other metadata."""

_TYPES: Mapping[str, tuple[type, str]] = {
    "schema": (int, "an integer"),
    "settings": (dict, "a mapping"),
    "model_fingerprint": (str, "a string"),
    "digest": (str, "a string"),
}

Settings = MendSettings | KeSettings
_SETTINGS: TypeAdapter[Settings] = TypeAdapter(Settings)


@dataclasses.dataclass(frozen=True)
class TrainedEditor:
    """A trained editor, loaded for its model.

    Attributes:
        network: Its network in evaluation mode, on the model's device.
        settings: The settings of its training.
        metadata: Plain data from its file: model fingerprint, digest of the training data, scores.
    """

    network: EditNetwork
    settings: Settings
    metadata: Mapping[str, Any]


def new_network(model: LanguageModel, settings: Settings) -> EditNetwork:
    """An untrained network on the model's device; its weights depend only on the settings' seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        matrices = edited_matrices(model, settings.blocks)
        if isinstance(settings, MendSettings):
            return MendNetwork(matrices, settings).to(model.device)
        return KeNetwork(matrices, settings, model).to(model.device)


def save_trained(
    folder: Path, tensors: Mapping[str, Tensor], settings: Settings, metadata: Mapping[str, Any]
) -> None:
    """Write a trained editor, whole or not at all.

    Args:
        folder: Destination. It is created if necessary.
        tensors: State of the network.
        settings: The settings of its training.
        metadata: Plain data, including ``model_fingerprint``.

    Raises:
        CacheError: The folder cannot be written. An earlier editor in it is unchanged.
    """
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = {
        "schema": _SCHEMA,
        "settings": settings.model_dump(mode="json"),
        **metadata,
        "digest": digest_of_tensors(flat),
    }
    write_editor_file(folder, flat, content)


def write_editor_file(
    folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write the content that :func:`read_editor_file` returned, changed or not.

    Raises:
        CacheError: The folder cannot be written. An earlier editor in it is unchanged.
    """
    metadata = {**metadata, METADATA_DIGEST: _metadata_digest(metadata)}
    compact = json.dumps(metadata, sort_keys=True)
    readable = json.dumps(metadata, indent=2, sort_keys=True) + "\n"
    try:
        write_atomically(folder / FILE, save(dict(tensors), metadata={"editor": compact}))
        write_atomically(folder / METADATA_FILE, readable.encode())
    except OSError as error:
        raise CacheError(
            f"the trained editor cannot be written to {folder}: {error}.",
            hint="Free some space or make the folder writable, then run the same command again. "
            "It does not repeat the training.",
        ) from error


def read_editor_file(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of a trained editor.

    Raises:
        ConfigError: The folder holds no trained editor, or a damaged one.
    """
    path = folder / FILE
    if not path.is_file():
        raise ConfigError(
            f"{folder} holds no trained editor ({FILE}).",
            hint="Give a folder that 'editkit train --out' wrote.",
        )
    try:
        header, tensors = read_safetensors(path)
        metadata = parse_json(header.get("editor", "null"), allow_nan=True)
        _check(metadata, tensors)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"{path} is damaged: {error}.", hint="Train the editor again, or copy the file again."
        ) from None
    return metadata, tensors


def _check(metadata: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError with the reason if :func:`save_trained` cannot have written this."""
    if not isinstance(metadata, dict):
        raise ValueError("it has no metadata of a trained editor")
    for name, (kind, expected) in _TYPES.items():
        if type(metadata.get(name)) is not kind:
            raise ValueError(f"{name} is {metadata.get(name)!r:.60}, expected {expected}")
    if metadata["schema"] != _SCHEMA:
        raise ValueError(f"schema is {metadata['schema']}, expected {_SCHEMA}")
    if metadata["digest"] != digest_of_tensors(tensors):
        raise ValueError("its tensors do not match their digest")
    # Files of early versions have no digest of the metadata.
    if METADATA_DIGEST in metadata and metadata[METADATA_DIGEST] != _metadata_digest(metadata):
        raise ValueError("its metadata does not match its digest")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
            raise ValueError(f"{name[:80]!r} holds values other than finite numbers")


def _metadata_digest(metadata: Mapping[str, Any]) -> str:
    return key_of({name: value for name, value in metadata.items() if name != METADATA_DIGEST})


def load_trained(folder: Path, model: LanguageModel) -> TrainedEditor:
    """Load a trained editor for its model. The model may have edits applied.

    Raises:
        ConfigError: The folder holds no trained editor, or a damaged one.
        DeltaError: The editor was trained on another model.
    """
    metadata, tensors = read_editor_file(folder)
    _ = model.fingerprint  # notices writes through .data
    if metadata["model_fingerprint"] not in (model.base_fingerprint, model.legacy_fingerprint):
        raise DeltaError(
            f"the editor in {folder} was trained on {metadata.get('model', 'a model')} "
            f"({metadata['model_fingerprint'][:12]}), but {model.name} is "
            f"{model.base_fingerprint[:12]}.",
            hint=how_to_train(str(metadata.get("editor", "mend")), argument_of(model)),
        )
    try:
        settings = _SETTINGS.validate_python(metadata["settings"])
        network = new_network(model, settings)
        network.load_state_dict(tensors)
    except (ValidationError, RuntimeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the editor in {folder} cannot be used: {first_line(error)}.", hint="Train it again."
        ) from None
    return TrainedEditor(network.requires_grad_(False).eval(), settings, metadata)


def existing_folder(config: LearnedConfig, name: str, model: LanguageModel) -> Path:
    """Folder of the trained editor that a configuration selects.

    Args:
        config: The configuration of an editor.
        name: The name of that editor.
        model: The model to edit.

    Raises:
        ConfigError: No editor was trained for this model.
    """
    folder = config.folder(model.base_fingerprint, name)
    if config.trained is None and not (folder / FILE).is_file():
        raise untrained(name, model.name, argument=argument_of(model))
    return folder


def argument_of(model: LanguageModel) -> str | None:
    """The model as an argument of a command; None if it was not loaded by name."""
    return None if model.source is None else model.argument
