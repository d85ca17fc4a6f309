"""Hyperparameters of AlphaEdit; the defaults are those of the published code."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator
from typing_extensions import Self

from editkit.editing.rome_value_config import Positive
from editkit.methods.mass_editing_config import MassEditingConfig


class AlphaEditConfig(MassEditingConfig):
    """Configuration of the editor ``alphaedit``: of the values, and of the null space."""

    threshold: Positive = 2e-2
    """Directions in which C has a smaller eigenvalue than this are the null space: edits change
    what the layer does with keys in these directions only. A larger one gives edits more room and
    protects other facts less. It depends on the scale of the model's keys."""

    threshold_unit: Literal["absolute", "mean"] = "absolute"
    """Whether ``threshold`` is an eigenvalue (published code), or a multiple of the mean eigenvalue
    of C, which does not depend on the scale of the keys."""

    identity_weight: Positive = 10.0
    """Weight lambda of the identity in the update (``L2``): a larger one makes changes smaller, and
    writes facts less completely."""

    @model_validator(mode="after")
    def _no_ridge(self) -> Self:
        if self.ridge:
            raise ValueError(
                f"got ridge {self.ridge:g}, but AlphaEdit does not invert C; use identity_weight, "
                "which has the effect of a ridge on the update"
            )
        return self
