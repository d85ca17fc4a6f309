"""Settings of training: what determines a trained editor besides its model and its data.

The defaults are those of the published code; :data:`PRESETS` names other sets of values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from editkit import Config

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class TrainingSettings(Config):
    """The settings that KE and MEND share."""

    blocks: Count = 3
    """Number of blocks to edit, counted from the last: both MLP projections of each."""

    steps: Count = 500_000
    """Maximum number of steps. Each step updates the network once."""

    edits_per_step: Count = 10
    """Edits per step. Each makes its own change; their losses are averaged."""

    locality: Count = 1
    """Facts per edit that must stay as they are."""

    related: Share = 1.0
    """Share of those facts that are neighbours of the edited fact. The rest come from any
    record."""

    edit_weight: NotNegative = 0.1
    """Weight of the edit loss relative to the divergence on facts that must stay."""

    other_targets: bool = False
    """Write any other object of the relation, not only each record's own new object."""

    other_wordings: bool = False
    """Also word a fact like any other record of its relation, when writing and when testing it."""

    lr: Positive = 1e-6
    """Learning rate of Adam."""

    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of linear learning-rate warm-up."""

    decay: bool = False
    """Let the learning rate decay to zero along a cosine by the last step."""

    clip: Positive = 100.0
    """Maximum gradient norm. Larger gradients are scaled down."""

    validation: Share = 0.1
    """Share of the records held out for validation."""

    validate_every: Count = 1000
    """Steps between validations. Each writes a checkpoint."""

    patience: Count = 20
    """Stop after this many validations without an improvement."""

    saved_dtype: Literal["float32", "float16"] = "float32"
    """Dtype of the saved weights. Running statistics stay float32."""

    seed: int = 0
    """Seed of the network's initial weights and of every random draw."""


class MendSettings(TrainingSettings):
    """Settings of MEND (Mitchell et al. 2022)."""

    kind: Literal["mend"] = "mend"
    """The method."""

    rank: Count = 1920
    """Rank of the network's layers, capped at their width."""

    layers: Count = 2
    """Number of residual layers."""

    sign: Literal["minus", "plus"] = "minus"
    """Direction of the change: against the gradient (the paper) or along it (published code)."""

    initial_rate: Positive = 1e-4
    """Initial value of each matrix's learned rate."""

    rate_lr: Positive = 1e-4
    """Learning rate of the learned rates."""


class KeSettings(TrainingSettings):
    """Settings of KE (De Cao et al. 2021)."""

    kind: Literal["ke"] = "ke"
    """The method."""

    lr: Positive = 1e-5
    """Learning rate of Adam."""

    hidden: Count = 512
    """Width of the LSTM and of the layers after it."""

    condition: Count = 768
    """Length of the condition vector."""

    max_scale: Positive = 1.0
    """Upper bound of a change's scale."""

    train_embedding: bool = True
    """Train the network's copy of the model's embeddings too."""


_FAST: Mapping[str, Any] = {
    "steps": 3000,
    "edits_per_step": 8,
    "locality": 8,
    "related": 0.8,
    "other_targets": True,
    "other_wordings": True,
    "warmup": 50,
    "decay": True,
    "validate_every": 250,
    "saved_dtype": "float16",
}

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "mend": {
        "published": {"sign": "plus"},
        "fast": {**_FAST, "rank": 128, "lr": 2e-4, "rate_lr": 1e-5, "edit_weight": 0.5},
    },
    "ke": {
        "published": {},
        "fast": {
            **_FAST,
            "steps": 4000,
            "hidden": 128,
            "condition": 128,
            "train_embedding": False,
            "max_scale": 30.0,
            "lr": 1e-3,
            "edit_weight": 0.8,
        },
    },
}
"""Method -> preset -> values. ``docs/training.md`` explains how ``fast`` was chosen."""
