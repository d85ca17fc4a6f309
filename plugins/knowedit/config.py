"""Configurations of the dataset ``knowedit`` and of its metric."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator
from typing_extensions import Self

from editkit import Config
from editkit.records.config import SourceConfig

Task = Literal["wiki_recent", "wiki_counterfact", "zsre", "wikibio", "sanitation"]

FILES: dict[tuple[str, str], str] = {
    ("wiki_recent", "test"): "wiki_recent/recent_test.json",
    ("wiki_recent", "train"): "wiki_recent/recent_train.json",
    ("wiki_counterfact", "test"): "wiki_counterfact/test_cf.json",
    ("wiki_counterfact", "train"): "wiki_counterfact/train_cf.json",
    ("zsre", "test"): "ZsRE/ZsRE-test-all.json",
    ("wikibio", "test"): "WikiBio/wikibio-test-all.json",
    ("wikibio", "train"): "WikiBio/wikibio-train-all.json",
    ("sanitation", "train"): "Sanitation/trivia_qa_train.json",
}
"""Task and split -> file in the published folder ``benchmark``."""


class KnowEditConfig(SourceConfig):
    """The source of records in one of KnowEdit's layouts: exactly one of ``path`` and ``hub``."""

    hub: str | None = None
    """A dataset on the Hugging Face hub with the published files, such as ``zjunlp/KnowEdit``."""

    task: Task | None = None
    """The task to read from a hub dataset, or from a folder with the published files. A single file
    needs none: its layout shows the task."""

    split: str = "test"
    """The part to read from a hub dataset or folder: ``test`` or ``train``."""

    @model_validator(mode="after")
    def _one_file(self) -> Self:
        if self.hub is not None and self.task is None:
            raise ValueError("a hub dataset has a file for each task: name one as 'task'")
        if self.task is not None and (self.task, self.split) not in FILES:
            splits = [split for task, split in FILES if task == self.task]
            raise ValueError(
                f"the task {self.task!r} can be read with split {' or '.join(splits)}, "
                f"not {self.split!r:.40}"
            )
        return self


class KnowEditMetricConfig(Config):
    """How answers are compared. The defaults are the published rules."""

    credit: Literal["tokens", "answer"] = "tokens"
    """What counts: the share of an answer's tokens (published), or only whole answers, of which
    every token is right or unchanged."""

    spellings: Literal["first", "best"] = "first"
    """Which spelling of a consequence's answer is asked for: the first (published), or the one that
    agrees best. Locality always uses the first, which only sets how many tokens are compared."""
