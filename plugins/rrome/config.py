"""Hyperparameters of R-ROME; the defaults are those of the published code."""

from __future__ import annotations

from typing import Literal

from editkit.methods.rank_one_config import RankOneConfig


class RRomeConfig(RankOneConfig):
    """Configuration of the editor ``r-rome``: of the value v*, of C, and of the update."""

    key: Literal["mean", "bare"] = "mean"
    """Key that the update uses everywhere: the mean over contexts (R-ROME), or that of the bare
    prompt (p-ROME)."""
