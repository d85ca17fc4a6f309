"""The dataset ``smollm2``: facts that SmolLM2-135M-Instruct knows, in CounterFact's layout.

README.md in this folder lists the commands that made the files.
"""

from __future__ import annotations

from typing import Literal

from editkit.records.config import PromptConfig
from editkit.storage.resources import resource_path
from editkit_plugins.counterfact.config import CounterFactConfig
from editkit_plugins.counterfact.dataset import CounterFactDataset


class SmolLM2Config(PromptConfig):
    """Configuration of the dataset ``smollm2``."""

    split: Literal["test", "train"] = "test"
    """``test``, for reported results, or ``train``, with other subjects, for choosing
    hyperparameters and training editors."""


class SmolLM2Dataset(CounterFactDataset):
    """The records of one split, read from the package."""

    def __init__(self, config: SmolLM2Config) -> None:
        path = resource_path(
            f"editkit_benchmarks:smollm2/records/{config.split}.json", owner="dataset 'smollm2'"
        )
        super().__init__(CounterFactConfig(path=path, separator=config.separator, chat=config.chat))
