"""Hyperparameters of EMMET; the defaults are those of the published code."""

from __future__ import annotations

from editkit.editing.rome_value_config import NotNegative, Positive
from editkit.methods.mass_editing_config import MassEditingConfig


class EmmetConfig(MassEditingConfig):
    """Configuration of the editor ``emmet``: of the values, of C, and of the constraint."""

    weight: Positive = 1.0
    """Weight w of C (``mom2_update_weight``). Without the other two fields it has no effect."""

    emmet_lambda: NotNegative = 0.1
    """Added to the diagonal of D, if there is more than one fact: above 0, the keys are not mapped
    exactly, and the edit is MEMIT's with the weight ``emmet_lambda`` · ``weight``."""

    update_norm_lambda: NotNegative = 0.0
    """Weight of the change's own norm next to C."""
