"""Hyperparameters of knowledge neurons; the editor's defaults are those of the published run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from editkit import Config
from editkit.interfaces import FileName

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class AttributionConfig(Config):
    """How neurons are scored, and the threshold on the scores."""

    site: Literal["pre_activation", "post_activation"] = "pre_activation"
    """What a neuron is: an output of the MLP's first projection, the gate's where there is one
    (published GPT code), or an input of its last one, after the nonlinearity (original method)."""

    steps: Count = 20
    """Points on the path from a silent layer to its own activation."""

    alphas: Literal["linspace", "left", "right"] = "linspace"
    """The points of the path: 0 to 1 with both ends (published), from 0 without 1 (original code),
    or to 1 without 0 (the paper's sum)."""

    target_space: bool = False
    """Whether targets are tokenised with a leading space. The published run has none, so that most
    targets become other, rarer tokens."""

    threshold: NotNegative = 0.2
    """Neurons must score above this; ``threshold_kind`` defines its unit."""

    threshold_kind: Literal["adaptive", "absolute", "percentile"] = "adaptive"
    """A share of the largest score over all layers, a score, or a share of all neurons (0.999)."""

    memory_mb: Count = 1024
    """Limit on the activations kept for the backward pass of facts attributed together."""

    @model_validator(mode="after")
    def _share_of_all_neurons(self) -> Self:
        if self.threshold_kind == "percentile" and self.threshold >= 1:
            raise ValueError(
                f"threshold {self.threshold:g} is not a share of all neurons; with threshold_kind "
                "percentile give a number below 1, such as 0.999"
            )
        return self


class KnConfig(AttributionConfig):
    """Configuration of the editor ``kn``."""

    refine: bool = False
    """Keep only neurons that several prompts of the same fact have in common."""

    p: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """With ``refine``: a neuron must pass the threshold in more than this share of the prompts."""

    wanted_neurons: tuple[Count, Count] | None = None
    """With ``refine``: move ``p`` in steps of 0.05 until the number of neurons is within this range
    (least, most)."""

    templates: FileName | None = None
    """Prompts of each relation, for ``refine``: a JSON file, or ``package:file``, with
    ``{"P17": ["{} is located in", ...]}``. Requests of other relations get ``contexts``."""

    contexts: tuple[Count, Count] = (9, 4)
    """With ``refine`` and no template for the relation: texts sampled from the model and put before
    the request's own prompt (how many, tokens of each)."""

    seed: int = 0
    """Seed of the sampled contexts."""

    operation: Literal["write", "suppress", "enhance"] = "write"
    """Change of the neurons' rows: write the new object into them, suppress their effect (x 0), or
    enhance it (x 2)."""

    old_token: Literal["predicted", "target_true"] = "predicted"
    """Tokens whose embeddings are subtracted: the token that the model predicts (published), or all
    tokens of the true object, if the request has one."""

    old_scale: NotNegative = 2.0
    """Factor of the old token's embedding, which is subtracted."""

    new_scale: NotNegative = 1.0
    """Factor of each new token's embedding, which is added."""

    scale_by: Literal["embedding", "row"] = "embedding"
    """Unit of the factors: the embedding as it is (published), or rescaled to the norm of the row
    (original)."""

    @model_validator(mode="after")
    def _least_before_most(self) -> Self:
        if self.wanted_neurons is not None and self.wanted_neurons[0] > self.wanted_neurons[1]:
            raise ValueError(
                f"wanted_neurons {list(self.wanted_neurons)} are in the wrong order; give the "
                "least first, then the most"
            )
        return self


class KnowledgeNeuronsConfig(AttributionConfig):
    """Configuration of the locator ``knowledge-neurons``, with the original method's defaults."""

    site: Literal["pre_activation", "post_activation"] = "post_activation"
    """What a neuron is: an output of the MLP's first projection, the gate's where there is one
    (published GPT code), or an input of its last one, after the nonlinearity (original method)."""

    target_space: bool = True
    """Whether answers are tokenised with a leading space."""

    most_neurons: Count = 100
    """Most neurons to report, the highest scores first."""
