"""Configurations of the dataset ``counterfact`` and of its metrics."""

from __future__ import annotations

from pathlib import Path

from editkit import Config
from editkit.records.config import SourceConfig


class CounterFactConfig(SourceConfig):
    """The source of records in CounterFact's layout: exactly one of ``path`` and ``hub``."""

    reference_texts: Path | None = None
    """Reference texts for the metric ``consistency``, by relation and object: a local ``.json`` or
    ``.json.gz``. CounterFact's own ``attribute_snippets.json``, which also has texts about
    subjects, or a mapping of relations to objects to texts."""

    essence_texts: Path | None = None
    """Texts about subjects for the metric ``essence``: a local ``.json`` or ``.json.gz`` with a
    mapping of subjects to texts."""


class ChoiceConfig(Config):
    """Nothing to configure: the metric's protocol name fixes the procedure."""
