"""Hyperparameters of methods that spread many values over several layers: MEMIT, EMMET, AlphaEdit.

A configuration class inherits them, with their documentation, and adds its own fields:

    class MyConfig(SecondMomentConfig, SpreadingConfig): ...

The defaults are those of MEMIT's published code. The mathematics is in
:mod:`editkit.editing.spreading`; importing this module loads no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from editkit.editing.rome_value_config import Count, Positive, ValueConfig

__all__ = ["PUBLISHED_SPREADING", "KeyAverage", "SpreadingConfig"]

KeyAverage = Literal["groups", "contexts"]
"""How the key of a fact is averaged over contexts.

- ``groups``: the mean of the key in the bare prompt and the mean of the keys in the other contexts,
  so that the bare prompt weighs 1/2 and each of five contexts 1/10 (published code);
- ``contexts``: the mean over all contexts.
"""

PUBLISHED_SPREADING = {
    "position": "subject_last",
    "context_lengths": [[5, 10]],
    "context_starts": ["The", "Therefore", "Because", "I", "You"],
    "context_top_k": 5,
    "bare_context": True,
    "value_contexts": True,
    "key_text": "prompt",
    "key_average": "groups",
    "steps": 20,
    "step_is": "evaluation",
    "lr": 0.5,
    "weight_decay": 0.5,
    "clamp": 0.75,
    "kl_factor": 0.0625,
    "kl_position": "subject_last",
    "stop_loss": 0.05,
    "offset_from": "own",
    "target_loss": "token_mean",
    "corpus_row_tokens": 2048,
}
"""What the published code of MEMIT, EMMET and AlphaEdit has in common, for their presets."""


class SpreadingConfig(ValueConfig):
    """The edited layers, the average of the keys, and the value at the last of these layers."""

    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Blocks with an MLP that is edited, from 0, ascending. The value is optimised at the output of
    the last one. None: the editor chooses."""

    key_average: KeyAverage = "groups"
    """Whether the bare prompt counts as much as all other contexts together in the average of the
    keys (``groups``, published code), or as one of the contexts (``contexts``)."""

    context_lengths: tuple[tuple[Count, Count], ...] = ((5, 10),)
    """Sampled contexts before the prompt, besides the empty one: (how many, tokens of each)."""

    context_starts: tuple[str, ...] = ("The", "Therefore", "Because", "I", "You")
    """Beginnings of the sampled contexts, in turn; their tokens count towards the length. Empty:
    contexts are sampled from the start of a text."""

    clamp: Positive | None = 0.75
    """The offset's norm is kept within this multiple of |h0|; null: no bound."""

    @field_validator("layers")
    @classmethod
    def _ascending(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and (not layers or list(layers) != sorted(set(layers))):
            raise ValueError(f"got layers {list(layers)}, expected one or more, ascending")
        return layers

    def key_weights(self, contexts: int) -> tuple[float, ...]:
        """Weight of each context in the average of the keys, the bare prompt first if included.

        Args:
            contexts: Number of contexts whose keys are averaged.
        """
        if self.key_average == "contexts" or not self.bare_context or contexts == 1:
            return (1 / contexts,) * contexts
        return (1 / 2, *[1 / (2 * (contexts - 1))] * (contexts - 1))
