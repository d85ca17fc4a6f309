"""Configurations of the tracing locators; defaults are those of the published runs."""

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
"""What is restored: a hidden state, a window of MLP or attention outputs, or a hidden state while
the token's MLP outputs, attention outputs, or both keep their corrupted values."""


Averaging = Literal["by_fact", "by_token"]
"""What counts once in averages over many facts; see ``editkit_plugins.tracing.averages``."""


class CausalTracingConfig(Config):
    """Configuration of ``causal-tracing`` (Meng et al. 2022, section 2)."""

    kind: Kind = "state"
    """What ``locate`` restores, one kind; ``trace`` restores all of ``kinds``."""

    kinds: tuple[Kind, ...] = Field(default=("state", "mlp", "attn"), min_length=1)
    """What ``editkit trace`` shows side by side."""

    window: Count = 10
    """Layers whose MLP or attention outputs are restored together, cut at the model's ends."""

    window_side: Literal["below", "above"] = "below"
    """An even window has one layer more below its middle, [l - 5, l + 4] (published code), or above
    it, [l - 4, l + 5] (paper)."""

    samples: Count = 10
    """Draws of the noise; probabilities are averaged over them."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Seed of the noise, drawn anew for every fact."""

    corruption: Literal["gaussian", "uniform", "multivariate", "student_t", "substitute"] = (
        "gaussian"
    )
    """What the subject's token embeddings get: Gaussian or uniform noise, noise that covaries as
    the model's embeddings do (Gaussian or Student's t), or another subject's embeddings."""

    noise_level: Positive | None = None
    """Standard deviation of Gaussian noise (0.1 for gpt2-xl, 0.025 for gpt-j-6B, 0.03 for
    gpt-neox-20b), or the largest uniform noise; null: ``noise_multiple`` standard deviations of
    the subjects' embeddings. Of noise that is matched to all embeddings: a factor, null for 1."""

    noise_multiple: Positive = 3.0
    """Level of the noise, in standard deviations over all entries of the subjects' embeddings."""

    subjects: Path | None = None
    """Subjects that set the unit: a file with a JSON list of texts. null: all traced subjects for
    averages, and otherwise the fact's own."""

    degrees: Annotated[float, Field(gt=2)] = 3.0
    """Degrees of freedom of Student's t; its covariance is that of the embeddings."""

    substitutes: tuple[str, ...] = ()
    """Other subjects, for ``substitute``; those with as many tokens as the fact's own are taken.
    Averages fill it with the subjects of the other facts."""

    answer_tokens: Literal["all", "first"] = "all"
    """Whether the probability of an answer is that of all its tokens, each given those before it,
    or of the first one alone (published code)."""

    averaging: Averaging = "by_fact"
    """What counts once in averages over many facts: a fact, with the mean over its tokens of a role
    (each token has one); or a token (published notebook), where a subject's only token is its first
    and its last one, and the first subsequent token counts even where it is the prompt's last."""

    severed_noise: Literal["second_draw", "same"] = "second_draw"
    """Whether severed runs corrupt the subject with a second draw of the noise, while the frozen
    outputs are from the first (published code), or with the same one."""

    memory_mb: Count | None = None
    """Bounds the activations held at once; null: a quarter of the memory that is free, at most 512,
    or 64 on a CPU, beyond which larger batches are no faster."""

    plain: bool = False
    """One site at a time, whole prompts, logits everywhere: slow, kept as reference."""


class GradientConfig(Config):
    """What both gradient locators share."""

    answer_tokens: Literal["all", "first"] = "all"
    """Whether the probability of an answer is that of all its tokens, or of the first one alone."""

    averaging: Averaging = "by_fact"
    """What counts once in averages over many facts: a fact, or a token as in the published
    notebook."""


class SaliencyConfig(GradientConfig):
    """Configuration of ``saliency``."""

    measure: Literal["norm", "state_times_gradient"] = "norm"
    """Effect of a state: the norm of the probability's gradient, or the size of its product with
    the state, which estimates what taking the state away would do."""


class IntegratedGradientsConfig(GradientConfig):
    """Configuration of ``integrated-gradients``."""

    steps: Count = 20
    """Points on the path from the baseline to the states."""

    baseline: Literal["zero", "mean"] = "zero"
    """Where the path of a layer's states begins: at zero, or at their mean over the prompt."""

    memory_mb: Count = 512
    """Activations kept for the backward pass; bounds how many points are run together."""
