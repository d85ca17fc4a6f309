"""Configurations of the dataset ``zsre`` and of its metric."""

from __future__ import annotations

from typing import Literal

from editkit import Config
from editkit.records.config import SourceConfig


class ZsreConfig(SourceConfig):
    """The source of records in MEND's layout: exactly one of ``path`` and ``hub``."""

    target: Literal["answer", "alternative"] = "answer"
    """The answer that an edit writes: the first of ``answers``, as in evaluation, or ``alt``, as in
    the training of MEND and KE."""


class ZsreAccuracyConfig(Config):
    """Configuration of the metric ``zsre``."""

    forcing: Literal["text", "tokens"] = "text"
    """How the answer's earlier tokens enter the input: decoded, appended to the prompt and
    tokenised again (``text``, published), or as tokens of the whole sentence (``tokens``)."""


class DrawdownConfig(ZsreAccuracyConfig):
    """Configuration of the metric ``drawdown``."""

    unit: Literal["answer", "token"] = "answer"
    """What is right or wrong for ``drawdown/lost``: a whole answer, or each of its tokens. The
    accuracies behind ``drawdown/drop`` are shares of tokens in both cases."""
