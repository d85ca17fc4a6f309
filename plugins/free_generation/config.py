"""Configurations of ``free``, ``free-chat`` and ``wild``."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from editkit import Config
from editkit.editing.stops import StopName

Frame: TypeAlias = Literal["prompt", "question", "chat"]
"""How a prompt is asked: as it is, as a question to answer, or as a user's turn in a chat."""


class FreeChatConfig(Config):
    """Where a text ends."""

    stop: StopName = "sentence"
    """Where a text ends, besides the token that ends it and after ``tokens``: at the end of a
    ``sentence`` or ``line``, nowhere else (``end``, ``tokens``), or as ``wild`` ends it."""

    tokens: int = Field(default=30, ge=1)
    """Most new tokens of a text."""


class FreeConfig(FreeChatConfig):
    """How prompts are asked, and where a text ends."""

    frame: Frame = "prompt"
    """``prompt``: the record's prompt as it is. ``question``: after "Please answer the question:",
    for prompts that are questions. ``chat``: as a user's turn in the model's own chat template."""


class WildConfig(Config):
    """How prompts are asked; everything else is the protocol's."""

    frame: Frame = "prompt"
    """``prompt`` is the published default (question-only), ``question`` the published ``qa_inst``.
    ``chat`` is the model's own chat template; the published code writes that of Llama 2 for every
    model."""
