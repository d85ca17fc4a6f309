"""Configuration of the editor ``in-context``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from editkit import Config
from editkit.editing.prompt_context import TextOrder

STATEMENT = "{statement}"


class InContextConfig(Config):
    """How facts are written, and which of them a prompt gets."""

    template: str = f"{STATEMENT}."
    """Text of a fact; ``{statement}`` is the edited prompt with the new target."""

    select: Annotated[int, Field(ge=1)] | None = 4
    """Most facts before a prompt: those that share most words with it, where rare words count more
    and later facts win ties. None: all facts."""

    order: TextOrder = "written"
    """Order of these facts: as they were written, or those that share most words with the prompt
    last (``closest_last``)."""

    separator: str = "\n"
    """Text after each fact."""

    before_prompt: str = ""
    """Text between the facts and the prompt."""

    @field_validator("template")
    @classmethod
    def _has_one_place(cls, template: str) -> str:
        if template.count(STATEMENT) != 1:
            raise ValueError(f"expected {STATEMENT} exactly once")
        return template
