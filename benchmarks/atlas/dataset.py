"""The dataset ``atlas``: the embedded records, in CounterFact's layout."""

from __future__ import annotations

from typing import Literal

from editkit.records.config import PromptConfig
from editkit_benchmarks.atlas import essence_path, records_path, reference_texts_path
from editkit_plugins.counterfact.config import CounterFactConfig
from editkit_plugins.counterfact.dataset import CounterFactDataset


class AtlasConfig(PromptConfig):
    """Configuration of the dataset ``atlas``."""

    split: Literal["test", "train"] = "test"
    """``test``, for reported results, or ``train``, with other subjects, for choosing
    hyperparameters and training editors."""


class AtlasDataset(CounterFactDataset):
    """The records of one split, read from the package."""

    def __init__(self, config: AtlasConfig) -> None:
        super().__init__(
            CounterFactConfig(
                path=records_path(config.split),
                reference_texts=reference_texts_path(),
                essence_texts=essence_path(),
                separator=config.separator,
                chat=config.chat,
            )
        )
