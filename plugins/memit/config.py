"""Hyperparameters of MEMIT; the defaults are those of the published code."""

from __future__ import annotations

from editkit.editing.rome_value_config import Positive
from editkit.methods.mass_editing_config import MassEditingConfig


class MemitConfig(MassEditingConfig):
    """Configuration of the editor ``memit``: of the values, of C, and of its weight."""

    weight: Positive = 15000.0
    """Weight w of C against the new keys (``mom2_update_weight``). A larger one protects other
    facts, and writes the new ones less completely."""
