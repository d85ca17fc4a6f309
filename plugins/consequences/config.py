"""Configuration of the metric ``consequences``, and the scores that follow from it."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from editkit import Config, Score
from editkit.consequences import GROUPS
from editkit.editing.stops import StopName
from editkit.matching import Match

KEPT = ("forgetfulness", "relation_specificity")
"""Groups of answers that must stay; those of all others must change."""

_OTHER_SCORES = ("all", "kept", "executed", "edited")
_NAME = re.compile(r"[A-Za-z0-9_-]+")


class ConsequencesConfig(Config):
    """How questions are asked, what is a right answer, and which records count."""

    frame: Literal["prompt", "chat"] = "prompt"
    """``prompt``: questions as the record has them. ``chat``: as a user's turn in the model's own
    chat template."""

    stop: StopName = "sentence"
    """Where an answer ends, besides the end of the text and after ``tokens``: at the end of a
    ``sentence`` or ``line``, nowhere else (``end``, ``tokens``), or by the rule ``wild``."""

    tokens: int = Field(default=30, ge=1)
    """Most tokens of an answer."""

    match: Match = "contained"
    """When an answer is right: if it is one of the spellings (``exact``), contains one as whole
    words (``contained``), or by the rule ``wild``."""

    only_successful_edits: bool = False
    """Score only records with edits that the edited model answers with the new object, which is the
    rule of RippleEdits. Editors are then scored on different records."""

    changing: tuple[str, ...] = ()
    """A dataset's own groups of tests with answers that must change, besides the groups that every
    dataset can have."""

    kept: tuple[str, ...] = ()
    """A dataset's own groups of tests with answers that must stay."""

    @model_validator(mode="after")
    def _distinct_groups(self) -> Self:
        own = [*self.changing, *self.kept]
        taken = (*GROUPS, *_OTHER_SCORES)
        for name in own:
            if name in taken or own.count(name) > 1 or not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot be added as a group; expected a name of letters, digits, '_' "
                    f"and '-', listed once, other than {', '.join(taken)}"
                )
        return self

    @property
    def changing_groups(self) -> tuple[str, ...]:
        """All groups with answers that must change."""
        return (*(name for name in GROUPS if name not in KEPT), *self.changing)

    @property
    def kept_groups(self) -> tuple[str, ...]:
        """All groups with answers that must stay."""
        return (*KEPT, *self.kept)


def scores_of(config: ConsequencesConfig) -> tuple[Score, ...]:
    """The scores by group, and those of the tests themselves; tables omit them."""
    means = ("all", "kept")
    groups = (*config.changing_groups, *config.kept_groups)
    changed = ("kept", *config.kept_groups)
    return (
        Score(
            "consequences/executed",
            higher_is_better=None,
            description="share of tests that are executed",
        ),
        Score(
            "consequences/edited",
            description="share of edits that the edited model states",
        ),
        *(
            Score(f"consequences/{name}", description=f"share of {_words(name)} tests that pass")
            for name in groups
        ),
        *(
            Score(
                f"consequences/{name}_executed",
                higher_is_better=None,
                description=f"share of {_words(name)} tests that are executed",
            )
            for name in groups
        ),
        *(
            Score(
                f"consequences/{name}_before",
                higher_is_better=None,
                description=f"{_words(name)}: share that the unedited model passes",
            )
            for name in (*means, *groups)
        ),
        *(
            Score(
                f"consequences/{name}_changed",
                higher_is_better=False,
                description=f"{_words(name)}: share of answers that the edit changed",
            )
            for name in changed
        ),
    )


def _words(name: str) -> str:
    return name.replace("_", " ")
