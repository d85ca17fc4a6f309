"""How the prompts of a dataset are asked: what stands before the answer, and whether in a chat.

Datasets of any layout take both from their configuration, and from single records that name them.
"""

from __future__ import annotations

import dataclasses

from pydantic import field_validator

from editkit.data_types import Record
from editkit.errors import RequestError
from editkit.interfaces import Config
from editkit.prompts import check_separator

__all__ = ["PromptConfig", "asked"]


class PromptConfig(Config):
    """Base of the configurations of datasets: how their prompts are asked."""

    separator: str | None = None
    """What stands between a prompt and its answer, for records that do not name it. None: what the
    script and the end of the prompt ask for, mostly a space; '' is nothing."""

    chat: bool = False
    """Whether every prompt is a user's turn in a chat, in the model's own chat template, and the
    answer the beginning of the model's turn."""

    @field_validator("separator")
    @classmethod
    def _usable(cls, separator: str | None) -> str | None:
        try:
            check_separator(separator)
        except RequestError as error:
            raise ValueError(error.message) from None
        return separator


def asked(record: Record, config: PromptConfig) -> Record:
    """A record whose request and probes are asked as configured.

    A separator that they name themselves stays.

    Args:
        record: The record.
        config: How prompts are asked.

    Raises:
        RequestError: The separator does not fit a prompt or an answer.
    """
    if config.separator is None and not config.chat:
        return record
    request, separator = record.request, config.separator

    def own(given: str | None) -> str | None:
        return separator if given is None else given

    return dataclasses.replace(
        record,
        request=dataclasses.replace(
            request, separator=own(request.separator), chat=request.chat or config.chat
        ),
        probes={
            kind: tuple(
                dataclasses.replace(
                    probe, separator=own(probe.separator), chat=probe.chat or config.chat
                )
                for probe in probes
            )
            for kind, probes in record.probes.items()
        },
    )
