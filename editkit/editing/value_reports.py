"""What the optimisation of values needs, and how it went: memory, convergence, advice."""

from __future__ import annotations

from typing import Any

from editkit.editing.outcomes import is_probable
from editkit.editing.rome_value import Value
from editkit.editing.rome_value_config import ValueConfig
from editkit.models.shape import ModelShape

__all__ = ["convergence", "memory_of_values"]

_FLOAT = 4  # bytes
_AT_BOUND = 0.99
"""An offset this close to the clamp's radius is held back by it."""


def convergence(value: Value, config: ValueConfig, *, elsewhere: str) -> dict[str, Any]:
    """Notes ``loss``, ``nll``, ``steps``, ``converged`` and ``advice``, for a delta.

    The value converged if the whole loss fell below ``stop_loss``, or if the target is more
    probable than not: the essence and decay terms may keep the loss up after the target is learned.

    Args:
        value: The optimised value.
        config: Hyperparameters.
        elsewhere: Advice where else to edit: ``edit another layer than 3``.
    """
    last = value.losses[-1]
    nll = last.nll / (value.tokens if config.target_loss == "sum" else 1)  # of one token
    notes = {"loss": last.total, "nll": nll, "steps": len(value.losses)}
    if last.total < config.stop_loss or is_probable(nll):
        return {**notes, "converged": True}
    size, unit = float(value.delta.norm()), float(value.v0.norm())
    if config.clamp is not None and size >= _AT_BOUND * config.clamp * unit:
        clamp = f"raise clamp ({config.clamp:g}), which holds the value back"
        advice = f"{clamp}, or {elsewhere}"
    elif last.decay > last.nll:
        advice = f"lower weight_decay ({config.weight_decay:g}), which outweighs the target"
    elif last.kl > last.nll:
        advice = f"lower kl_factor ({config.kl_factor:g}), which outweighs the target"
    else:
        advice = f"raise steps ({config.steps}) or lr ({config.lr:g}), or {elsewhere}"
    return {**notes, "converged": False, "advice": advice}


def memory_of_values(
    shape: ModelShape, layer: int, config: ValueConfig, *, requests: int, tokens: int
) -> tuple[int, str]:
    """Bytes that the optimisation of values takes, and a note on it, for an editor's requirements.

    The edited token is assumed to be in the middle of a request: only the tokens after it are run
    again at each step.

    Args:
        shape: The model's shape.
        layer: The block whose output is optimised.
        config: Hyperparameters.
        requests: Number of requests.
        tokens: Tokens of the longest request.
    """
    sampled = sum(n for n, _ in config.context_lengths)
    sampled = sampled if config.contexts is None else len(config.contexts)
    rows_per_request = (sampled if config.value_contexts else 0) + 2  # bare prompt, essence
    width = tokens // 2 + 1
    upper = shape.n_layers - layer
    budget = config.memory_mb * 2**20 // (_FLOAT * 40 * shape.hidden_size * upper)
    together = max(1, min(requests, budget // (rows_per_request * width)))
    memory = shape.backward_bytes(together * rows_per_request, width, upper)
    return memory, f"{together} of {requests} requests are optimised side by side (memory_mb)"
