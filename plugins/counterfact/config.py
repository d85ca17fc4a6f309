"""Configurations of the dataset ``counterfact`` and of its metrics."""

from __future__ import annotations

from editkit import Config
from editkit.record_files import SourceConfig


class CounterFactConfig(SourceConfig):
    """Where the records in CounterFact's layout are: exactly one of ``path`` and ``hub``."""


class ChoiceConfig(Config):
    """Nothing to configure: the procedure is fixed by the metric's protocol name."""
