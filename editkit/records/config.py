"""Configuration that datasets share: the source of the records, and how their prompts are asked.

``separator`` and ``chat`` apply to every record that does not set them itself.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeVar

from pydantic import field_validator, model_validator
from typing_extensions import Self

from editkit.consequences import Consequence, OpenQuestion
from editkit.data_types import EditRequest, Probe, Record, Records
from editkit.errors import RequestError
from editkit.interfaces import Config
from editkit.prompts import check_separator
from editkit.records.digests import digest_of_records

__all__ = ["PromptConfig", "SourceConfig", "as_configured", "with_prompt_config"]

RequestOrProbe = TypeVar("RequestOrProbe", EditRequest, Probe)


class PromptConfig(Config):
    """How a dataset's prompts are asked. Base of the configurations of datasets."""

    separator: str | None = None
    """Text between a prompt and its answer, for records that do not set it. None: chosen from the
    script and the end of the prompt, usually a space. '' is nothing."""

    chat: bool = False
    """Ask every prompt as a user turn in the model's own chat template. The answer is the beginning
    of the model's turn."""

    @field_validator("separator")
    @classmethod
    def _usable(cls, separator: str | None) -> str | None:
        try:
            check_separator(separator)
        except RequestError as error:
            raise ValueError(error.message) from None
        return separator


class SourceConfig(PromptConfig):
    """The source of the records, exactly one of ``path`` and ``hub``, and how prompts are asked."""

    path: Path | None = None
    """A local file in the dataset's layout: a JSON list, ``.json`` or ``.json.gz``."""

    hub: str | None = None
    """A dataset on the Hugging Face hub in the same layout, such as ``azhx/counterfact``."""

    split: str = "train"
    """Split of the hub dataset. Slices work: ``train[:100]``."""

    revision: str | None = None
    """Commit, tag or branch of the hub dataset. For reproducible results, name a commit."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            given = "neither" if self.path is None else "both"
            raise ValueError(
                f"expected exactly one of 'path' and 'hub', got {given}; for example "
                "--set dataset.path=records.json"
            )
        return self


def with_prompt_config(record: Record, config: PromptConfig) -> Record:
    """Apply ``separator`` and ``chat`` to a record's edits, probes and consequences.

    Separators that they set themselves win.

    Raises:
        RequestError: The separator does not fit a prompt or an answer.
    """
    if config.separator is None and not config.chat:
        return record

    def configured(part: RequestOrProbe) -> RequestOrProbe:
        separator = config.separator if part.separator is None else part.separator
        return dataclasses.replace(part, separator=separator, chat=part.chat or config.chat)

    return dataclasses.replace(
        record,
        request=configured(record.request),
        probes={kind: tuple(map(configured, probes)) for kind, probes in record.probes.items()},
        also=tuple(map(configured, record.also)),
        consequences={
            group: tuple(_in_chat(test) for test in tests) if config.chat else tests
            for group, tests in record.consequences.items()
        },
    )


def _in_chat(test: Consequence) -> Consequence:
    """A test that asks all of its questions as user turns."""

    def asked(questions: tuple[OpenQuestion, ...]) -> tuple[OpenQuestion, ...]:
        return tuple(dataclasses.replace(each, chat=True) for each in questions)

    return dataclasses.replace(
        test, questions=asked(test.questions), conditions=asked(test.conditions)
    )


def as_configured(loaded: Records, config: Config | None) -> Records:
    """Apply ``separator`` and ``chat`` of a dataset's configuration, if its ``load`` did not.

    Args:
        loaded: The records that the dataset loaded.
        config: The dataset's configuration.

    Raises:
        RequestError: The separator does not fit a prompt or an answer.
    """
    if loaded.as_configured or not isinstance(config, PromptConfig):
        return loaded
    records = tuple(with_prompt_config(record, config) for record in loaded.records)
    if records == loaded.records:
        return loaded
    return dataclasses.replace(loaded, records=records, digest=digest_of_records(records))
