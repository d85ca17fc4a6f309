"""What fine-tuning needs in memory besides the weights."""

from __future__ import annotations

import math

from editkit import Needs
from editkit.models import ModelShape
from editkit_plugins.finetune.config import FineTuneConfig

_FLOAT = 4


def fine_tune_needs(
    config: FineTuneConfig, shape: ModelShape, *, requests: int, tokens: int
) -> Needs:
    """Memory for a copy, a gradient and Adam's two moments per request, and activations."""
    shape.path(config.layer, "mlp_out")  # refuses a layer that is not there
    parts = (shape.architecture.mlp_out,)
    if config.part == "qkv":
        parts = shape.architecture.qkv
    trained = sum(
        math.prod(size)
        for part in parts
        for name, size in shape.module_parameters(
            shape.architecture.path(config.layer, part)
        ).items()
        if name == "weight" or (name == "bias" and config.train_bias)
    )
    copies = 1 if config.joint else requests
    together = copies
    if not config.joint:
        together = max(1, min(requests, config.memory_mb * 2**20 // (5 * _FLOAT * trained)))
    rows = requests if config.joint else together
    activations = rows * tokens * shape.saved_bytes * (shape.n_layers - config.layer)
    logits = 3 * rows * 2 * shape.vocabulary * shape.bytes_per_value  # and softmax and gradient
    weights = trained * _FLOAT
    original = 0 if shape.dtype == "float32" else weights
    earlier = (copies - together) * weights
    return Needs(
        edit=original + earlier + 4 * together * weights + activations + logits,
        deltas=copies * weights,
        notes=(f"{together} of {copies} changes are trained side by side (memory_mb)",),
    )
