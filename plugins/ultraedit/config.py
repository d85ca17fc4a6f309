"""Hyperparameters of UltraEdit; the defaults are those of the published code."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from editkit import Config

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Layer = Annotated[int, Field(ge=0)]


class EditedModules(Config):
    """The modules of one part, in consecutive blocks."""

    part: Literal["gate", "up", "in", "out"]
    """``gate`` and ``up``: one of the two projections into the MLP's inner space; ``in``: all
    projections into it; ``out``: the projection out of it."""

    first: Layer
    """First block, from 0."""

    last: Layer
    """Last block; it is edited too."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.last < self.first:
            raise ValueError(f"last is {self.last}, below first, {self.first}")
        return self


class UltraEditConfig(Config):
    """Configuration of the editor ``ultraedit``."""

    modules: tuple[EditedModules, ...] | None = None
    """Edited modules, in the order in which they enter the statistics. None: the output
    projections from two thirds of the depth on, without the last block (GPT-J: 18 to 26 of 28)."""

    lr: Positive = 1e-6
    """Learning rate: the factor on each normalised gradient."""

    sub_batch: Count = 10
    """Facts per backward pass. A sub-batch's loss is the mean over all its tokens, so its size
    changes the gradients before they are normalised."""

    tokens: Literal["target", "all"] = "target"
    """Rows of hidden states and gradients: the positions that predict the target, or all."""

    ridge: Positive = 1.0
    """Ridge of the least-squares problem."""

    variance: Literal["unbiased", "exact"] = "unbiased"
    """How m rows enter the running sum of squares: m times their unbiased variance (published
    code: slightly too large, and undefined for a single row), or their own sum of squares."""
