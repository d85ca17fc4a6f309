"""Configurations of the tracing locators; the defaults are those of the published runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from editkit import Config

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]

Kind = Literal[
    "state", "mlp", "attn", "state-mlp-severed", "state-attn-severed", "state-both-severed"
]
"""What a run restores: a hidden state; a window of MLP or attention outputs; or a hidden state
while the token's MLP outputs, attention outputs, or both stay corrupted."""


Averaging = Literal["by_fact", "by_token"]
"""The unit of averages over many facts; see ``editkit_plugins.tracing.averages``."""


class CausalTracingConfig(Config):
    """Configuration of ``causal-tracing`` (Meng et al. 2022, section 2)."""

    kind: Kind = "state"
    """What ``locate`` restores; ``trace`` restores each of ``kinds``."""

    kinds: tuple[Kind, ...] = Field(default=("state", "mlp", "attn"), min_length=1)
    """What ``editkit trace`` restores, shown side by side."""

    window: Count | None = None
    """Number of layers in which MLP or attention outputs are restored together, clipped at the
    model's ends. null: as large a share of the depth as the papers' 10 of 48 layers, rounded up: 2
    of 6 layers, 3 of 12, 6 of 28."""

    window_side: Literal["below", "above"] = "below"
    """Where an even window has its extra layer: below its middle, [l - 5, l + 4] (published code),
    or above it, [l - 4, l + 5] (paper)."""

    samples: Count = 10
    """Draws of the noise; probabilities are averaged over them."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Seed of the noise; every fact starts from it."""

    corruption: Literal["gaussian", "uniform", "multivariate", "student_t", "substitute"] = (
        "gaussian"
    )
    """What is added to the subject's token embeddings: Gaussian noise, uniform noise, noise with
    the covariance of all embeddings (Gaussian or Student's t), or the difference to another
    subject."""

    noise_level: Positive | None = None
    """Standard deviation of Gaussian noise (0.1 for gpt2-xl, 0.025 for gpt-j-6B, 0.03 for
    gpt-neox-20b), or bound of uniform noise; null: ``noise_multiple`` standard deviations of the
    subjects' embeddings. For noise with the covariance of all embeddings: a factor; null: 1."""

    noise_multiple: Positive = 3.0
    """Noise level in standard deviations over all entries of the subjects' embeddings."""

    subjects: Path | None = None
    """JSON list of the subjects that ``noise_multiple`` refers to. null: for averages, the subjects
    of all facts; for a single trace, the fact's own."""

    degrees: Annotated[float, Field(gt=2)] = 3.0
    """Degrees of freedom of Student's t; its covariance is that of the embeddings."""

    substitutes: tuple[str, ...] = ()
    """Other subjects for ``substitute``. Averages use the subjects of the other facts by
    default."""

    substitute_length: Literal["same", "any"] = "same"
    """Which substitutes are used: those with as many tokens as the fact's own subject, or all. Runs
    with another number of tokens are aligned at the subject's last token; the first tokens of a
    longer subject have no counterpart then, and are not traced."""

    answer_tokens: Literal["all", "first"] = "all"
    """Probability of an answer: of all its tokens, each given those before it, or of its first
    token alone (published code)."""

    averaging: Averaging = "by_fact"
    """The unit of averages over many facts. ``by_fact``: each token has one role, and a fact counts
    once per role, with the mean over its tokens. ``by_token`` (published notebook): each token
    counts. A subject's only token is both its first and its last; the token after the subject is
    the first subsequent token even if it is the prompt's last."""

    severed_noise: Literal["second_draw", "same"] = "second_draw"
    """Noise in severed runs, whose severed outputs come from the first draw: a second draw
    (published code), or the same one."""

    memory_mb: Count | None = None
    """Limit for activations held at once; null: a quarter of the free memory, at most 512, or 64 on
    a CPU, where larger batches are no faster."""


class GradientConfig(Config):
    """The fields that both gradient locators share."""

    answer_tokens: Literal["all", "first"] = "all"
    """Probability of an answer: of all its tokens, or of its first token alone."""

    averaging: Averaging = "by_fact"
    """The unit of averages over many facts: a fact, or a token as in the published notebook."""


class SaliencyConfig(GradientConfig):
    """Configuration of ``saliency``."""

    measure: Literal["norm", "state_times_gradient"] = "norm"
    """A state's score: the norm of the probability's gradient, or the absolute value of its product
    with the state, a first-order estimate of the effect of removing the state."""


class IntegratedGradientsConfig(GradientConfig):
    """Configuration of ``integrated-gradients``."""

    steps: Count = 20
    """Points on the path from the baseline to the states."""

    baseline: Literal["zero", "mean"] = "zero"
    """Where the path of a layer's states starts: at zero, or at their mean over the prompt."""

    memory_mb: Count = 512
    """Limit for activations kept for the backward pass; sets how many points run together."""
