"""Configurations of the dataset ``zsre`` and of its metric."""

from __future__ import annotations

from typing import Literal

from editkit import Config
from editkit.records.config import SourceConfig


class ZsreConfig(SourceConfig):
    """Where the records in MEND's layout are: exactly one of ``path`` and ``hub``."""

    target: Literal["answer", "alternative"] = "answer"
    """What an edit writes: the first of ``answers``, as when editors are evaluated, or ``alt``, as
    when MEND and KE are trained."""


class ZsreAccuracyConfig(Config):
    """Configuration of the metric ``zsre``."""

    forcing: Literal["text", "tokens"] = "text"
    """How the tokens before the one that is asked for are given: written as text behind the prompt
    and tokenised with it anew (published), or as they are tokenised in the whole sentence."""
