"""How the optimisation of a value went, as notes of an edit."""

from __future__ import annotations

from typing import Any

from editkit.editing.outcomes import is_probable
from editkit.editing.rome_value import Value
from editkit.editing.rome_value_config import ValueConfig

__all__ = ["notes_of_value"]

_AT_BOUND = 0.99
"""An offset this close to the clamp's radius is held back by it."""


def notes_of_value(value: Value, config: ValueConfig, layer: int) -> dict[str, Any]:
    """Notes ``layer``, ``loss``, ``nll``, ``steps``, ``converged`` and ``advice`` of a value.

    It converged if the whole loss fell below ``stop_loss``, or if the target is more probable than
    not: the essence and decay terms may keep the loss up after the target is learned.

    Args:
        value: The optimised value.
        config: Hyperparameters.
        layer: The block at whose output it was optimised.
    """
    last = value.losses[-1]
    nll = last.nll / (value.tokens if config.target_loss == "sum" else 1)  # of one token
    notes = {"layer": layer, "loss": last.total, "nll": nll, "steps": len(value.losses)}
    if last.total < config.stop_loss or is_probable(nll):
        return {**notes, "converged": True}
    size, unit = float(value.delta.norm()), float(value.v0.norm())
    if config.clamp is not None and size >= _AT_BOUND * config.clamp * unit:
        advice = (
            f"raise clamp ({config.clamp:g}), which holds the value back, or edit another layer"
        )
    elif last.decay > last.nll:
        advice = f"lower weight_decay ({config.weight_decay:g}), which outweighs the target"
    elif last.kl > last.nll:
        advice = f"lower kl_factor ({config.kl_factor:g}), which outweighs the target"
    else:
        raised = f"raise steps ({config.steps}) or lr ({config.lr:g})"
        advice = (
            f"{raised}, or edit another layer than {layer} (layer: auto traces the model for it)"
        )
    return {**notes, "converged": False, "advice": advice}
