"""Configurations of the dataset ``ripple-edits`` and of its metric."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from editkit import Config
from editkit.editing.stops import StopName
from editkit.matching import Match
from editkit.records.config import SourceConfig


class RippleEditsConfig(SourceConfig):
    """The source of records in RippleEdits' layout: exactly one of ``path`` and ``hub``."""

    subset: Literal["recent", "random", "popular"] | None = None
    """Read only examples of this type. If ``path`` is a folder, read the file of this name in
    it."""


class RippleEditsMetricConfig(Config):
    """How the tests are asked and compared. The defaults are the published rules."""

    text: Literal["with-prompt", "continuation"] = "with-prompt"
    """Where answers are looked for: in prompt and continuation (published), or only in the
    continuation. A prompt that contains the answer passes by itself under the published rule."""

    match: Literal["substring"] | Match = "substring"
    """When a text gives an answer: it contains a spelling letter by letter (``substring``,
    published), contains its words after normalisation (``contained``), or is it (``exact``)."""

    length: Literal["prompt-characters", "fixed"] = "prompt-characters"
    """How long texts are: prompt and continuation have as many tokens as the prompt has characters
    and ``extra`` more (published), or the continuation has ``extra`` tokens."""

    extra: int = Field(default=30, ge=1)
    """Tokens of a text, see ``length``."""

    stop: StopName = "end"
    """Where a continuation is cut before answers are looked for; ``end``, the published rule, is
    the end-of-text token or the length."""

    letters: Literal["dropped", "kept"] = "dropped"
    """Whether spellings of a single character count. The published code drops them unless they are
    digits."""

    failed_edits: Literal["left-out", "counted"] = "left-out"
    """Whether examples count in which the edited model does not give the new object. The published
    code leaves them out, so that editors are compared on different examples."""
