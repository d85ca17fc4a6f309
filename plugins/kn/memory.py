"""What attribution holds in memory: how many prompts fit together, and what an edit will need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from editkit import Needs
from editkit_plugins.kn.config import AttributionConfig, KnConfig

if TYPE_CHECKING:
    from editkit.models import ModelShape


def point_bytes(layers: int, hidden: int, vocabulary: int, tokens: int, itemsize: int) -> int:
    """Bytes that one point of one prompt's path holds until its backward pass.

    Keys and values of all tokens (the prefix, and joined with the last token), what each block
    keeps of the last token, and logits, probabilities and their gradients in float32.
    """
    keys_and_values = 2 * 2 * tokens * hidden * layers * itemsize
    activations = 24 * hidden * layers * itemsize
    return keys_and_values + activations + 4 * vocabulary * 4


def prompts_together(point: int, config: AttributionConfig) -> int:
    """How many prompts are attributed in one backward pass."""
    return max(1, config.memory_mb * 2**20 // (point * config.steps))


def needs(config: KnConfig, shape: ModelShape, *, requests: int, tokens: int) -> Needs:
    """Memory of an edit: the points of the prompts that go together, and all neurons' scores."""
    several = 1 + config.contexts[0] if config.refine else 1
    if config.refine:
        tokens += config.contexts[1] + 1
    sizes = (shape.n_layers, shape.hidden_size, shape.vocabulary)
    point = point_bytes(*sizes, tokens, shape.bytes_per_value)
    together = min(requests * several, prompts_together(point, config))
    if config.plain:
        point, together = point * tokens // config.steps, 1
    scores = requests * several * shape.n_layers * shape.inner_size * 4
    return Needs(
        edit=together * config.steps * point + scores,
        notes=("How many neurons are found, and so the size of the deltas, depends on the fact.",),
    )
