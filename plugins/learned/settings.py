"""Everything that makes a trained editor what it is: its network, and how it was trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from editkit import Config

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class TrainingSettings(Config):
    """How an editor is trained; the defaults are those of the published code."""

    blocks: Count = 3
    """Both MLP projections of the last so many blocks are edited."""

    steps: Count = 500_000
    """Most steps; each updates the network once."""

    edits_per_step: Count = 10
    """Edits whose losses are averaged in a step, each with a change of its own."""

    locality: Count = 1
    """Facts that must stay as they are, for each edit."""

    related: Share = 1.0
    """Share of them that are neighbours of the edited fact; the others belong to any record."""

    edit_weight: NotNegative = 0.1
    """Weight of the edit's loss, beside the divergence on facts that must stay."""

    other_targets: bool = False
    """Write any new object of the relation, instead of each record's own only."""

    other_wordings: bool = False
    """Write and look for a fact in the words of any record of its relation, besides its own."""

    lr: Positive = 1e-6
    """Learning rate of Adam."""

    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises."""

    decay: bool = False
    """Whether the learning rate falls to nothing along a cosine by the last step."""

    clip: Positive = 100.0
    """Longest gradient; longer ones are scaled down."""

    validation: Share = 0.1
    """Share of the records that are kept for validation."""

    validate_every: Count = 1000
    """Steps between validations; each writes a checkpoint."""

    patience: Count = 20
    """Stop after so many validations without a better one."""

    saved_dtype: Literal["float32", "float16"] = "float32"
    """Type in which the network's weights are saved; its running statistics stay float32."""

    seed: int = 0
    """Seed of the network's weights, and of everything that is drawn."""


class MendSettings(TrainingSettings):
    """MEND (Mitchell et al. 2022)."""

    kind: Literal["mend"] = "mend"
    """Which method this is."""

    rank: Count = 1920
    """Rank of the network's layers; at most their width."""

    layers: Count = 2
    """Layers of the network."""

    sign: Literal["minus", "plus"] = "minus"
    """Direction of the change: against the gradient (the paper), or along it (published code)."""

    initial_rate: Positive = 1e-4
    """Learned rate of each matrix before training."""

    rate_lr: Positive = 1e-4
    """Learning rate of the learned rates."""


class KeSettings(TrainingSettings):
    """KE (De Cao et al. 2021)."""

    kind: Literal["ke"] = "ke"
    """Which method this is."""

    lr: Positive = 1e-5
    """Learning rate of Adam."""

    hidden: Count = 512
    """Width of the LSTM and of the layers after it."""

    condition: Count = 768
    """Length of the condition."""

    max_scale: Positive = 1.0
    """Largest factor of a change."""

    train_embedding: bool = True
    """Whether the copy of the model's embeddings is trained, too."""
