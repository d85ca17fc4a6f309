"""Configuration of the editors ``ke`` and ``mend``, one class for each set they are trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from editkit import Config
from editkit.storage.cache import cache_folder
from editkit.storage.digests import blake2b_of, digest_of_file
from editkit.storage.resources import path_of

FILE = "editor.safetensors"
"""File of a trained editor; it holds everything."""

FACTS = "editor.json"
"""A copy for readers of what :data:`FILE` says; nothing reads it."""

Count = Annotated[int, Field(ge=1)]


class LearnedConfig(Config):
    """What all trained editors have in common."""

    editor_name: ClassVar[str]

    trained: str | None = None
    """The trained editor: a folder that ``editkit train`` wrote, or ``package:folder``. None: the
    one of this name that was trained for this model and is in the cache."""

    edits_per_pass: Count = 32
    """Requests that share one backward pass."""

    def folder(self, model_fingerprint: str) -> Path:
        """Where the trained editor for a model is, or would be."""
        if self.trained is None:
            return kept_folder(self.editor_name, model_fingerprint)
        return path_of(self.trained)

    def depends_on(self, model_fingerprint: str, name: str) -> Mapping[str, str]:
        """The digest of the weights and settings that will be loaded; ``none`` if there are none.

        Raises:
            ConfigError: The folder that ``trained`` names holds no trained editor.
        """
        path = self.folder(model_fingerprint) / FILE
        if self.trained is None and not path.exists():
            return {"trained": "none"}  # the editor's check says how to train one
        return {"trained": _digest_of_trained(path)}


def _digest_of_trained(path: Path) -> str:
    """Digest of a trained editor's tensors and settings, read without torch.

    Scores and times of its training are in the file, too, and do not count: the same training
    gives the same editor. A file that cannot be taken apart counts as a whole; loading refuses it.
    """
    whole = digest_of_file(str(path))
    content = path.read_bytes()
    try:
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        facts = json.loads(header.pop("__metadata__")["editor"])
        about = json.dumps([header, facts["settings"]], sort_keys=True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return whole
    return blake2b_of([about, content[end:]])


def kept_folder(editor: str, model_fingerprint: str) -> Path:
    """Where the cache keeps a trained editor of some name for some model."""
    return cache_folder() / "trained" / model_fingerprint / editor


class MendConfig(LearnedConfig):
    """Configuration of the editor ``mend``."""

    editor_name: ClassVar[str] = "mend"

    joint: bool = False
    """Write all requests of a call with one common change: the rows of all are summed."""


class MendCounterfactConfig(MendConfig):
    """Configuration of the editor ``mend-cf``."""

    editor_name: ClassVar[str] = "mend-cf"


class MendZsreConfig(MendConfig):
    """Configuration of the editor ``mend-zsre``."""

    editor_name: ClassVar[str] = "mend-zsre"


class KeConfig(LearnedConfig):
    """Configuration of the editor ``ke``."""

    editor_name: ClassVar[str] = "ke"


class KeCounterfactConfig(KeConfig):
    """Configuration of the editor ``ke-cf``."""

    editor_name: ClassVar[str] = "ke-cf"


class KeZsreConfig(KeConfig):
    """Configuration of the editor ``ke-zsre``."""

    editor_name: ClassVar[str] = "ke-zsre"
