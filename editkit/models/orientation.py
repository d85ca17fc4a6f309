"""How a weight is stored: linear modules keep (out, in), GPT-2's Conv1D keeps (in, out).

Deltas are always written input-major, (in, out), so that no editor has to know.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

__all__ = ["as_stored", "input_major", "is_input_major", "is_matrix_module"]


def is_matrix_module(module: nn.Module) -> bool:
    """Whether the module computes ``x W + b`` with a weight that this page knows to orient."""
    return isinstance(module, (nn.Linear, Conv1D))


def is_input_major(module: nn.Module) -> bool:
    """Whether the module keeps its weight as (in, out)."""
    return isinstance(module, Conv1D)


def input_major(module: nn.Module, stored: Tensor) -> Tensor:
    """A view of a stored weight as (in, out); other parameters are returned as they are."""
    return stored.T if isinstance(module, nn.Linear) and stored.ndim == 2 else stored


def as_stored(module: nn.Module, values: Tensor) -> Tensor:
    """A view of (in, out) values in the module's own layout; the inverse of :func:`input_major`."""
    return input_major(module, values)
