"""Trained editors on disk: one safetensors file with everything, and a readable copy of its facts.

A trained editor belongs to the model that it was trained on and is refused for any other.
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
from editkit_plugins.learned.config import FACTS, FILE, LearnedConfig
from editkit_plugins.learned.matrices import matrices
from editkit_plugins.learned.networks import EditNetwork, make_network
from editkit_plugins.learned.settings import KeSettings, MendSettings

_SCHEMA = 1
OWN_DIGEST = "facts_digest"
"""Name of the digest of all other facts."""

_TYPES: Mapping[str, type] = {
    "schema": int,
    "settings": dict,
    "model_fingerprint": str,
    "digest": str,
}
_WORDS = {int: "an integer", dict: "a mapping", str: "a text"}

Settings = MendSettings | KeSettings
_SETTINGS: TypeAdapter[Settings] = TypeAdapter(Settings)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained editor.

    Attributes:
        network: Its network, in evaluation mode, on the model's device.
        settings: How it was made.
        facts: What else is known: the model's fingerprint, the training data's digest, scores.
    """

    network: EditNetwork
    settings: Settings
    facts: Mapping[str, Any]


def save_trained(
    folder: Path, tensors: Mapping[str, Tensor], settings: Settings, facts: Mapping[str, Any]
) -> None:
    """Write a trained editor, whole or not at all.

    Args:
        folder: Where; made if need be.
        tensors: State of the network.
        settings: How it was made.
        facts: Plain data, with ``model_fingerprint``.

    Raises:
        CacheError: The folder cannot be written; an earlier editor in it is as it was.
    """
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = {
        "schema": _SCHEMA,
        "settings": settings.model_dump(mode="json"),
        **facts,
        "digest": digest_of_tensors(flat),
    }
    save_facts(folder, flat, content)


def save_facts(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write what :func:`read_facts` returns; arguments and errors as for :func:`save_trained`."""
    facts = {**facts, OWN_DIGEST: _digest_of(facts)}
    text = json.dumps(facts, sort_keys=True)
    readable = json.dumps(facts, indent=2, sort_keys=True) + "\n"
    try:
        write_atomically(folder / FILE, save(dict(tensors), metadata={"editor": text}))
        write_atomically(folder / FACTS, readable.encode())
    except OSError as error:
        raise CacheError(
            f"the trained editor cannot be written into {folder}: {error}.",
            hint="Make room or allow writing there, and run the same command again: training is "
            "not repeated.",
        ) from error


def read_facts(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a trained editor's file holds.

    Raises:
        ConfigError: There is none, or it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise ConfigError(
            f"{folder} holds no trained editor ({FILE}).",
            hint="Give the folder that 'editkit train --out' wrote.",
        )
    try:
        metadata, tensors = read_safetensors(path)
        facts = parse_json(metadata.get("editor", "null"), allow_nan=True)
        _check(facts, tensors)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"{path} is damaged: {error}.", hint="Train again, or copy the file again."
        ) from None
    return facts, tensors


def _check(facts: Any, tensors: Mapping[str, Tensor]) -> None:
    """Refuse what :func:`save_trained` does not write.

    Raises:
        ValueError: With the reason.
    """
    if not isinstance(facts, dict):
        raise ValueError("it says nothing about an editor")
    for name, kind in _TYPES.items():
        if type(facts.get(name)) is not kind:
            raise ValueError(f"{name} is {facts.get(name)!r:.60}, expected {_WORDS[kind]}")
    if facts["schema"] != _SCHEMA:
        raise ValueError(f"it has schema {facts['schema']}, expected {_SCHEMA}")
    if facts["digest"] != digest_of_tensors(tensors):
        raise ValueError("its digest does not fit")
    if OWN_DIGEST in facts and facts[OWN_DIGEST] != _digest_of(facts):  # early files have none
        raise ValueError("the digest of its description does not fit")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
            raise ValueError(f"{name[:80]!r} holds other things than finite numbers")


def _digest_of(facts: Mapping[str, Any]) -> str:
    return key_of({name: value for name, value in facts.items() if name != OWN_DIGEST})


def load_trained(folder: Path, model: LanguageModel) -> Trained:
    """A trained editor for the model that it was trained on, with or without edits applied.

    Raises:
        ConfigError: There is none, or it is damaged.
        DeltaError: It was trained on another model.
    """
    facts, tensors = read_facts(folder)
    if facts["model_fingerprint"] not in (model.base_fingerprint, model.legacy_fingerprint):
        raise DeltaError(
            f"the editor in {folder} was trained on {facts.get('model', 'a model')} "
            f"({facts['model_fingerprint'][:12]}), but {model.name} is "
            f"{model.base_fingerprint[:12]}.",
            hint=_how_to_train(str(facts.get("editor", "mend")), model),
        )
    try:
        settings = _SETTINGS.validate_python(facts["settings"])
        network = seeded_network(model, settings)  # leaves the global random numbers alone
        network.load_state_dict(tensors)
    except (ValidationError, RuntimeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the editor in {folder} cannot be used: {first_line(error)}.", hint="Train it again."
        ) from None
    return Trained(network.requires_grad_(False).eval(), settings, facts)


def folder_of(config: LearnedConfig, model: LanguageModel) -> Path:
    """Where the trained editor of a configuration is.

    Raises:
        ConfigError: None was trained for this model.
    """
    folder = config.folder(model.base_fingerprint)
    if config.trained is None and not (folder / FILE).is_file():
        raise ConfigError(
            f"{config.editor_name} has not been trained for {model.name}.",
            hint=f"{_how_to_train(config.editor_name, model)} Or set "
            f"editors.{config.editor_name}.trained to the folder of a trained one.",
        )
    return folder


def _how_to_train(editor: str, model: LanguageModel) -> str:
    method = editor.partition("-")[0]
    command = f"Run 'editkit train {method} --model {model.argument} --dataset ...'."
    if model.source is None:
        command = f"Save the model and its tokenizer with save_pretrained to a FOLDER. {command}"
    return command


def seeded_network(model: LanguageModel, settings: Settings) -> EditNetwork:
    """A new network whose weights depend on the settings' seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return make_network(model, matrices(model, settings.blocks), settings)
