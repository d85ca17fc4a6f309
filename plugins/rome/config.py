"""Hyperparameters of ROME; the defaults are those of the published code."""

from __future__ import annotations

from typing import Literal

from editkit.methods.rank_one_config import RankOneConfig


class RomeConfig(RankOneConfig):
    """Configuration of the editor ``rome``: of the value v*, of C, and of the update."""

    update_key: Literal["bare", "mean"] = "bare"
    """Key that the update maps to the new value: that of the bare prompt (published), or the mean
    over contexts that also gives the update's direction (as the r-ROME analysis recommends)."""
