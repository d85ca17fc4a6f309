"""Hyperparameters of ROME; the defaults are those of the published code."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from editkit.covariance.config import SecondMomentConfig
from editkit.editing.rome_value_config import ValueConfig


class RomeConfig(SecondMomentConfig, ValueConfig):
    """Configuration of the editor ``rome``: of the value v*, of C, and of the update."""

    layer: Annotated[int, Field(ge=0)] | None = None
    """Block whose MLP output projection is edited, from 0. None: a tenth of the depth."""

    update_key: Literal["bare", "mean"] = "bare"
    """Key that the update maps to the new value: that of the bare prompt (published), or the mean
    over contexts that also gives the update's direction (as the r-ROME analysis recommends)."""

    unstable_norm: Annotated[float, Field(gt=0)] = 1.0
    """An edit whose norm exceeds this multiple of the weight's own is marked as unstable."""
