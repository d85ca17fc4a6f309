"""Hyperparameters of ROME's value optimisation, for the configuration of any editor that uses it.

A configuration class inherits them, with their documentation, and adds its own fields:

    class MyConfig(ValueConfig): ...

The defaults are those of ROME's published code. The mathematics is in
:mod:`editkit.editing.rome_value`; importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from editkit.validation import Config

__all__ = ["PUBLISHED_VALUE", "Count", "NotNegative", "Positive", "ValueConfig"]

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class ValueConfig(Config):
    """Contexts, rows, loss and optimiser of the value v*."""

    position: Literal["subject_first", "subject_last", "subject_first_after_last", "last"] = (
        "subject_last"
    )
    """Token at which the key is read and the value is written."""

    context_lengths: tuple[tuple[Count, Count], ...] = ((10, 4), (10, 9))
    """Sampled contexts before the prompt, besides the empty one: (how many, tokens of each)."""

    context_starts: tuple[str, ...] = ()
    """Beginnings of the sampled contexts, in turn; their tokens count towards the length. Empty:
    contexts are sampled from the start of a text."""

    context_top_k: Count = 5
    """Contexts are sampled from this many most likely tokens."""

    contexts: tuple[str, ...] | None = None
    """Texts to use as contexts, instead of sampled ones."""

    bare_context: bool = True
    """Whether the prompt without any context counts among the contexts of the key and of the loss
    (published code), or only the sampled ones do (the paper's equations 3 and 4)."""

    value_contexts: bool = True
    """Whether the value's loss averages over the contexts, or uses the bare prompt alone (equation
    8 of the paper's first version), with the contexts for the key only."""

    key_text: Literal["prompt", "subject"] = "prompt"
    """What follows a context where keys are read: the request's prompt (published code), or the
    subject alone (equation 3 of the paper, 7 of its first version)."""

    seed: int = 0
    """Seed of the sampled contexts."""

    steps: Count = 20
    """Most steps of the optimisation of the value; ``step_is`` defines a step."""

    step_is: Literal["evaluation", "update"] = "evaluation"
    """A step is an evaluation of the loss, the last of which is not followed by an update, so that
    20 steps update 19 times (published code); or an update (the papers' texts): 20 steps update 20
    times, and the loss is evaluated once more at the end."""

    lr: Positive = 0.5
    """Learning rate of Adam on the value's offset."""

    weight_decay: NotNegative = 0.5
    """Weight of |delta| / |v0|² in the loss."""

    clamp: Positive | None = 4.0
    """The offset's norm is kept within this multiple of |v0|; null: no bound (as in the papers)."""

    offset_from: Literal["own", "bare"] = "own"
    """What the optimised offset is added to in each row: the row's own output (published code), or
    that of the bare prompt, so that every row gets the same value z (equations 4 and 8)."""

    target_loss: Literal["token_mean", "sum"] = "token_mean"
    """Loss of a target of several tokens: the mean over its tokens (published code), or -log of the
    probability of the whole target, their sum (equations 4 and 8)."""

    kl_factor: NotNegative = 0.0625
    """Weight of KL(after || before) on the essence prompt."""

    kl_prompt: str = "{} is a"
    """The essence prompt, with ``{}`` for the subject."""

    kl_position: Literal["subject_last", "prompt_last"] = "subject_last"
    """Where the KL term reads its distribution: at the edited token (published code), or at the end
    of the essence prompt (the paper's text)."""

    stop_loss: NotNegative = 0.05
    """Stop before stepping once the whole loss is below this."""

    memory_mb: Count = 1024
    """Activations kept for the backward pass; bounds how many requests are optimised together."""

    @property
    def evaluations(self) -> int:
        """Most evaluations of the loss; one more than there are updates."""
        return self.steps + (self.step_is == "update")

    @model_validator(mode="after")
    def _something_to_average(self) -> Self:
        none = not (self.context_lengths if self.contexts is None else self.contexts)
        if none and not self.bare_context:
            raise ValueError(
                "bare_context is false and there are no other contexts, so there is no key; set "
                "bare_context: true, or give context_lengths"
            )
        if self.key_text == "subject" and self.position not in ("subject_first", "subject_last"):
            raise ValueError(
                f"key_text subject has no token at position {self.position}; use subject_last or "
                "subject_first, or key_text: prompt"
            )
        return self


PUBLISHED_VALUE: Mapping[str, Any] = {
    "position": "subject_last",
    "context_lengths": [[10, 4], [10, 9]],
    "context_top_k": 5,
    "bare_context": True,
    "value_contexts": True,
    "key_text": "prompt",
    "steps": 20,
    "step_is": "evaluation",
    "lr": 0.5,
    "weight_decay": 0.5,
    "kl_factor": 0.0625,
    "kl_position": "subject_last",
    "stop_loss": 0.05,
    "offset_from": "own",
    "target_loss": "token_mean",
}
"""The value in ROME's published code, for the preset ``published`` of an editor. Its clamp depends
on the model."""
