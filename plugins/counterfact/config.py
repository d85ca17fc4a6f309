"""Configurations of the dataset ``counterfact`` and of its metrics."""

from __future__ import annotations

from pathlib import Path

from editkit import Config
from editkit.records.config import SourceConfig


class CounterFactConfig(SourceConfig):
    """Where the records in CounterFact's layout are: exactly one of ``path`` and ``hub``."""

    reference_texts: Path | None = None
    """Texts by relation and object, a local ``.json`` or ``.json.gz``: what the metric
    ``consistency`` compares with. CounterFact's own ``attribute_snippets.json``, which also has
    the texts about subjects, or a mapping of relations to objects to texts."""

    essence_texts: Path | None = None
    """Texts by subject, a local ``.json`` or ``.json.gz`` with a mapping of subjects to texts: what
    the metric ``essence`` reads."""


class ChoiceConfig(Config):
    """Nothing to configure: the procedure is fixed by the metric's protocol name."""
