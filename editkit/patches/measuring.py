"""What an edit did, measured on the model that it was made on: everything that a patch stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from editkit.editing.delta_effects import Effects, norm_of, share_kept
from editkit.editing.deltas import WeightDelta
from editkit.editing.edited_models import EditedModels
from editkit.editing.outcomes import ROUNDED_AWAY
from editkit.patches.asking import ask_all
from editkit.patches.content import Check, Movement, ParameterSize, Question, Size
from editkit.patches.drift import movements

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel

__all__ = ["Measured", "measured", "sizes_of"]


class Measured(NamedTuple):
    """What one edit did; the fields are those of a patch."""

    checks: tuple[Check, ...]
    drift: tuple[Movement, ...]
    size: Size


def measured(
    model: LanguageModel, deltas: Sequence[WeightDelta], questions: Sequence[Question]
) -> list[Measured]:
    """Ask the unedited model and each edited one, and measure drift and size.

    All models answer in shared batches.

    Args:
        model: The unedited model.
        deltas: Edits of it, such as those of several editors for one fact.
        questions: The questions for all of them.

    Returns:
        One result per edit.

    Raises:
        RequestError: A question cannot be read.
        DeltaError: An edit does not fit the model; or a text is longer than the model's context
            because of the texts that an edit puts before it.
        ModelError: A question is too long, or is a chat and the model has no chat template.
    """
    none = WeightDelta({}, None, "none", {}, model.fingerprint)
    before, *after = ask_all(EditedModels(model, [none, *deltas]), questions)
    checks = [tuple(map(Check, questions, before, answers)) for answers in after]
    drift, sizes = movements(model, deltas), sizes_of(model, deltas)
    return list(map(Measured, checks, drift, sizes))


@torch.no_grad()
def sizes_of(model: LanguageModel, deltas: Sequence[WeightDelta]) -> list[Size]:
    """How large edits are, and what rounding leaves of them.

    Args:
        model: The unedited model.
        deltas: Edits of it.
    """
    effects = Effects(model)
    return [
        Size(
            tuple(
                ParameterSize(name, norm_of(change), float(model.hf.get_parameter(name).norm()))
                for name, change in delta.changes.items()
            ),
            float(effects.of(delta).get(ROUNDED_AWAY, 0.0)),
            share_kept(model, delta, torch.bfloat16),
        )
        for delta in deltas
    ]
