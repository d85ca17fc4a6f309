"""Hyperparameters of FT, FT+L and AttnEdit, as in the published code, and of full fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from editkit import Config

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class FineTuneConfig(Config):
    """Configuration of the editor ``ft``."""

    layer: Annotated[int, Field(ge=0)] = 1
    """Block whose module is trained, from 0."""

    part: Literal["mlp_out", "qkv"] = "mlp_out"
    """Trained module: the MLP's output projection, or the query, key and value projections."""

    lr: Positive = 5e-4
    """Learning rate of Adam."""

    weight_decay: NotNegative = 0.0
    """Adam's weight decay."""

    steps: Count = 25
    """Most steps; each evaluates the loss and then updates."""

    stop_loss: NotNegative = 1e-2
    """Stop, without an update, once the loss is below this."""

    max_change: Positive | None = None
    """Bound on the change of every entry, enforced after each step; None: no bound."""

    max_relative_change: Positive | None = None
    """The same in units of RMS(W) / sqrt(D), for a weight W with inputs of length D: at 1, a change
    in step with an input can move an output about as far as W itself does. For models of any
    scale, for which ``max_change`` is not known. With both, the smaller bound counts."""

    train_bias: bool = True
    """Whether the module's bias is trained too, as in the published code (which matches names)."""

    target_positions: Literal["last_prompt", "teacher_forced"] = "last_prompt"
    """Where a target of several tokens is scored: all tokens at the prompt's last token (published
    code), or each after the ones before it (the paper's text)."""

    target_loss: Literal["token_mean", "sum"] = "token_mean"
    """Loss of a target of several tokens: the mean over its tokens (published code), or -log of the
    probability of the whole target, their sum (the paper's text)."""

    batch: Count = 128
    """Most facts per step of joint training. More are trained in mini-batches: a step is then a
    pass over all facts, in a random order, with one update for each batch."""

    memory_mb: Count = 1024
    """Limit on the memory of the weights that are trained side by side."""


class ConstrainedFineTuneConfig(FineTuneConfig):
    """Configuration of the editor ``ft+l``."""

    layer: Annotated[int, Field(ge=0)] = 0
    """Block whose module is trained, from 0."""

    max_change: Positive | None = 5e-4
    """Bound on the change of every entry, enforced after each step; None: no bound."""


class AttentionFineTuneConfig(ConstrainedFineTuneConfig):
    """Configuration of the editor ``attnedit``."""

    layer: Annotated[int, Field(ge=0)] = 33
    """Block whose module is trained, from 0."""

    part: Literal["mlp_out", "qkv"] = "qkv"
    """Trained module: the MLP's output projection, or the query, key and value projections."""

    lr: Positive = 1e-3
    """Learning rate of Adam."""

    max_change: Positive | None = 1e-3
    """Bound on the change of every entry, enforced after each step; None: no bound."""


class FullFineTuneConfig(Config):
    """Configuration of the editor ``ft-all``."""

    lr: Positive = 1e-4
    """Learning rate of Adam."""

    weight_decay: NotNegative = 0.0
    """Adam's weight decay."""

    steps: Count = 50
    """Most passes over the facts, with one update for each batch."""

    batch: Count = 32
    """Facts per update."""

    stop_loss: NotNegative = 0.1
    """Stop once the mean loss of the facts is below this."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the order of the facts, if they do not fit in one batch."""
