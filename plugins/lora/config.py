"""Hyperparameters of LoRA."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from editkit import Config

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Layer = Annotated[int, Field(ge=0)]


class LoraConfig(Config):
    """Configuration of the editor ``lora``."""

    layers: tuple[Layer, ...] | None = None
    """Blocks with adapters, from 0; None: all blocks."""

    parts: tuple[Literal["qkv", "attention_out", "mlp_in", "mlp_out"], ...] = Field(
        default=("mlp_in", "mlp_out"), min_length=1
    )
    """Projections with an adapter: query, key and value; the attention's output; into and out of
    the MLP's inner space."""

    rank: Count = 8
    """Rank r of each adapter."""

    alpha: Positive = 16.0
    """The adapter is scaled by alpha / r."""

    lr: Positive = 2e-3
    """Learning rate of Adam."""

    weight_decay: NotNegative = 0.0
    """Adam's weight decay, on the factors A and B."""

    steps: Count = 50
    """Most passes over the facts, with one update for each batch."""

    batch: Count = 32
    """Facts per update of a joint edit; of independent edits, requests trained side by side."""

    stop_loss: NotNegative = 0.1
    """Stop once the mean loss of the facts is below this."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the initial A, and of the order of facts that do not fit in one batch."""
