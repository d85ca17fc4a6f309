"""Hyperparameters that rank-one editors share; importing this module loads no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from editkit.covariance.config import SecondMomentConfig
from editkit.editing.rome_value_config import Positive, ValueConfig

__all__ = ["RankOneConfig"]


class RankOneConfig(SecondMomentConfig, ValueConfig):
    """The edited layer, the value v*, and C."""

    layer: Annotated[int, Field(ge=0)] | None = None
    """Block whose MLP output projection is edited, from 0. None: a tenth of the depth."""

    unstable_norm: Positive = 1.0
    """An edit whose norm exceeds this multiple of the weight's own is marked as unstable."""
