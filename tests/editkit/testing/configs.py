"""Configurations of the guests: sound ones, and some that break rules. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, field_serializer

from editkit import Config


class SeedConfig(Config):
    """A seed."""

    seed: int = 0
    """Seed of what is random."""


class EditorConfig(SeedConfig):
    """Configuration of the sound editor."""

    layer: int = Field(default=1, ge=0)
    """Block that is edited, from 0."""

    strength: float = 4.0
    """Length of the push."""


class DatasetConfig(Config):
    """Configuration of the sound dataset."""

    source: Literal["some", "other", "broken", "absent"] = "some"
    """Which records."""


class FieldWithoutWords(EditorConfig):
    """A field that nobody explains."""

    mystery: int = 0


class ClassWithoutWords(EditorConfig):
    mystery: int = 0
    """A field of a class that nobody explains."""


class AnythingGoes(EditorConfig):
    """Takes any key."""

    model_config = ConfigDict(extra="ignore")


class Infinite(EditorConfig):
    """Takes any number."""

    model_config = ConfigDict(allow_inf_nan=True)


class Thawed(EditorConfig):
    """Can be changed."""

    model_config = ConfigDict(frozen=False)


class Rounded(EditorConfig):
    """Is written less exactly than it is."""

    strength: float = 4.25
    """Length of the push."""

    @field_serializer("strength")
    def _short(self, value: float) -> float:
        return round(value)
