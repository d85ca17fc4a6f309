"""Configuration of the editors ``ke`` and ``mend``, one class for each set they are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from editkit import Config
from editkit.cache import cache_folder, digest_of_file, path_of

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

    def depends_on(self, model_fingerprint: str) -> Mapping[str, str]:
        """The digest of the file that will be loaded; ``none`` where nothing was trained yet.

        Raises:
            ConfigError: The folder that ``trained`` names holds no trained editor.
        """
        path = self.folder(model_fingerprint) / FILE
        if self.trained is None and not path.exists():
            return {"trained": "none"}  # the editor's check says how to train one
        return {"trained": digest_of_file(str(path))}


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
