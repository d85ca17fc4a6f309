"""Configurations of the dataset ``mquake`` and of its metric."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from editkit import Config
from editkit.editing.stops import StopName
from editkit.matching import Match
from editkit.records.config import SourceConfig


class MQuakeConfig(SourceConfig):
    """The source of records in MQuAKE's layout: exactly one of ``path`` and ``hub``."""


class MQuakeMetricConfig(Config):
    """How questions are asked and answers compared.

    The published rules are ``frame: qa-line``, ``match: string``, ``stop: line`` and a file of
    ``demonstrations``.
    """

    frame: Literal["qa", "qa-line", "plain", "chat"] = "qa"
    """How a question is asked: ``Q:`` and ``A:`` on two lines, on one line as in the published
    prompts, the question alone, or the question as a user's turn in the model's chat template. The
    prompts of edits are asked as they are."""

    match: Literal["string"] | Match = "contained"
    """When an answer is right: if it is a spelling, letter by letter (``string``, published), if it
    is one after normalisation (``exact``), or contains one as whole words (``contained``). A model
    continues the prompt of an edit after the object, so under the first two rules such a text only
    has to begin with a spelling."""

    stop: StopName = "sentence"
    """Where an answer ends, besides the end of the text and after ``tokens``; ``line`` in the
    published code, after demonstrations of one line each."""

    tokens: int = Field(default=30, ge=1)
    """Most tokens of an answer."""

    demonstrations: Path | None = None
    """A text file that is put before every question: solved examples in the same frame. The
    published files are MQuAKE's own; the name of the procedure has a digest of the content."""

    instances: Literal["all", "known"] = "all"
    """Which records have multi-hop scores: all, or those where the unedited model answers every
    hop of the original chain, the rule by which the published records were chosen for GPT-J."""
