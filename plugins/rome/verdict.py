"""Whether an edit worked, as far as its optimisation shows, and what to change where it did not."""

from __future__ import annotations

from typing import Any

from editkit.editing.outcomes import is_probable
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.rome.value import Value

_AT_BOUND = 0.99
"""An offset this close to the clamp's radius is held back by it."""


def verdict(value: Value, config: RomeConfig, layer: int) -> dict[str, Any]:
    """Notes on the value's optimisation: ``loss``, ``nll``, ``steps``, ``converged``, ``advice``.

    It converged if the whole loss fell below ``stop_loss``, or if the target is more probable than
    not: the terms for essence and decay may keep the loss up where the target is learnt.

    Args:
        value: What was optimised.
        config: Hyperparameters.
        layer: The edited block.
    """
    last = value.losses[-1]
    nll = last.nll / (value.tokens if config.target_loss == "sum" else 1)  # of a token
    notes = {"layer": layer, "loss": last.total, "nll": nll, "steps": len(value.losses)}
    if last.total < config.stop_loss or is_probable(nll):
        return {**notes, "converged": True}
    return {**notes, "converged": False, "advice": _advice(value, config, layer)}


def _advice(value: Value, config: RomeConfig, layer: int) -> str:
    last = value.losses[-1]
    size, unit = float(value.delta.norm()), float(value.v0.norm())
    if config.clamp is not None and size >= _AT_BOUND * config.clamp * unit:
        return f"raise clamp ({config.clamp:g}), which holds the value back, or edit another layer"
    if last.decay > last.nll:
        return f"lower weight_decay ({config.weight_decay:g}), which outweighs the target"
    if last.kl > last.nll:
        return f"lower kl_factor ({config.kl_factor:g}), which outweighs the target"
    return f"raise steps ({config.steps}) or lr ({config.lr:g}), or edit another layer than {layer}"
