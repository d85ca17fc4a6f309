"""Configuration of the editors, and the folders where their trained networks are stored."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from editkit import Config, ConfigError
from editkit.storage.cache import cache_folder
from editkit.storage.digests import blake2b_of, digest_of_file
from editkit.storage.resources import path_of

FILE = "editor.safetensors"
"""File of a trained editor: weights, settings and metadata."""

METADATA_FILE = "editor.json"
"""Copy of the metadata in :data:`FILE` for people to read. The code never reads it."""

Count = Annotated[int, Field(ge=1)]


class LearnedConfig(Config):
    """The fields that all trained editors share."""

    trained: str | None = None
    """The trained editor: a folder written by ``editkit train``, or ``package:folder``. None: the
    one in the cache that was trained for this model under this editor's name."""

    scale: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the change of every weight when an edit is made, after training (published code:
    ``lr_scale``)."""

    edits_per_pass: Count = 32
    """Requests per backward pass."""

    def folder(self, model_fingerprint: str, name: str) -> Path:
        """Folder of the trained editor for a model and an editor name. It need not exist."""
        if self.trained is None:
            return trained_folder(name, model_fingerprint)
        return path_of(self.trained)

    def check_for(self, model: str, model_fingerprint: str, name: str) -> None:
        """Refuse a model without a trained editor.

        Raises:
            ConfigError: None was trained.
        """
        if self.trained is None and not (self.folder(model_fingerprint, name) / FILE).is_file():
            raise untrained(name, model, argument=shlex.quote(model))

    def depends_on(self, model_fingerprint: str, name: str) -> Mapping[str, str]:
        """Digest of the trained weights and settings, or ``none`` if nothing is trained yet.

        Raises:
            ConfigError: The folder named by ``trained`` holds no trained editor.
        """
        path = self.folder(model_fingerprint, name) / FILE
        if self.trained is None and not path.exists():
            return {"trained": "none"}  # the editor's check explains how to train one
        return {"trained": _digest_of_trained(path)}


def _digest_of_trained(path: Path) -> str:
    """Digest of a trained editor's tensors and settings, read without torch.

    The file also holds scores and times of its training. They are left out, so that repeating a
    training gives the same digest. An unreadable file is digested as a whole; loading refuses it.
    """
    digest_of_bytes = digest_of_file(str(path))
    content = path.read_bytes()
    try:
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        metadata = json.loads(header.pop("__metadata__")["editor"])
        description = json.dumps([header, metadata["settings"]], sort_keys=True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return digest_of_bytes
    return blake2b_of([description, content[end:]])


def untrained(editor: str, model: str, *, argument: str | None) -> ConfigError:
    """The error that no editor was trained for a model.

    Args:
        editor: Name of the editor.
        model: Name of the model.
        argument: The model as an argument of a command; None if it was not loaded by name.
    """
    return ConfigError(
        f"{editor} has not been trained for {model}.",
        hint=f"{how_to_train(editor, argument)} Or set editors.{editor}.trained to the folder of a "
        "trained editor.",
    )


def how_to_train(editor: str, argument: str | None) -> str:
    """The command that trains an editor; arguments as for :func:`untrained`."""
    save = "" if argument else "Save the model and its tokenizer with save_pretrained to a FOLDER. "
    method = editor.partition("-")[0]
    return f"{save}Run 'editkit train {method} --model {argument or 'FOLDER'} --dataset ...'."


def trained_folder(editor: str, model_fingerprint: str) -> Path:
    """Folder in the cache for the trained editor of a name and a model."""
    return cache_folder() / "trained" / model_fingerprint / editor


class MendConfig(LearnedConfig):
    """Configuration of ``mend``, ``mend-cf`` and ``mend-zsre``."""


class KeConfig(LearnedConfig):
    """Configuration of ``ke``, ``ke-cf`` and ``ke-zsre``."""
