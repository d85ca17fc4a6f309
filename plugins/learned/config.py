"""Configuration of the editors ``ke`` and ``mend``, one class for each set they are trained on."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from editkit import Config

Count = Annotated[int, Field(ge=1)]


class LearnedConfig(Config):
    """What all trained editors have in common."""

    editor_name: ClassVar[str]

    trained: str | None = None
    """The trained editor: a folder that ``editkit train`` wrote, or ``package:folder``. None: the
    one of this name that was trained for this model and is in the cache."""

    edits_per_pass: Count = 32
    """Requests that share one backward pass."""


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
