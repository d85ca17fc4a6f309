"""Hyperparameters that editors of many facts share; importing this module loads no torch."""

from __future__ import annotations

from editkit.covariance.config import SecondMomentConfig
from editkit.editing.rome_value_config import Positive
from editkit.editing.spreading_config import SpreadingConfig

__all__ = ["MassEditingConfig"]


class MassEditingConfig(SecondMomentConfig, SpreadingConfig):
    """The value at the last layer, the edited layers, and the second moment of their keys."""

    unstable_norm: Positive = 1.0
    """An edit is marked as unstable if its norm in a layer exceeds this multiple of the weight's
    own, times the square root of the number of facts: unrelated changes add up like that."""
