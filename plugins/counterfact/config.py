"""Configurations of the dataset ``counterfact`` and of its metrics."""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator
from typing_extensions import Self

from editkit import Config


class CounterFactConfig(Config):
    """Where the records are: exactly one of ``path`` and ``hub``."""

    path: Path | None = None
    """A local file in CounterFact's layout: a JSON list, ``.json`` or ``.json.gz``."""

    hub: str | None = None
    """A dataset on the Hugging Face hub in CounterFact's layout, such as ``azhx/counterfact``."""

    split: str = "train"
    """Split of the hub dataset, slices included: ``train[:100]``."""

    revision: str | None = None
    """Commit, tag or branch of the hub dataset; name a commit for results that can be repeated."""

    reference_texts: Path | None = None
    """Texts by relation and object, a local ``.json`` or ``.json.gz``: what the metric
    ``consistency`` compares with. CounterFact's own ``attribute_snippets.json``, which also has
    the texts about subjects, or a mapping of relations to objects to texts."""

    essence_texts: Path | None = None
    """Texts by subject, a local ``.json`` or ``.json.gz`` with a mapping of subjects to texts: what
    the metric ``essence`` reads."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            given = "neither" if self.path is None else "both"
            raise ValueError(f"expected exactly one of 'path' and 'hub', got {given}")
        return self


class ChoiceConfig(Config):
    """Nothing to configure: the procedure is fixed by the metric's protocol name."""
