"""The layout of weights: linear modules store (out, in), GPT-2's Conv1D stores (in, out).

Deltas are always input-major, (in, out), so that editors do not depend on the layout.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

__all__ = ["as_stored", "input_major", "is_input_major", "is_matrix_module"]


def is_matrix_module(module: nn.Module) -> bool:
    """Whether the module computes ``x W + b`` with a weight of known layout."""
    return isinstance(module, (nn.Linear, Conv1D))


def is_input_major(module: nn.Module) -> bool:
    """Whether the module stores its weight as (in, out)."""
    return isinstance(module, Conv1D)


def input_major(module: nn.Module, stored: Tensor) -> Tensor:
    """A view of a stored weight as (in, out); other parameters are returned unchanged."""
    return stored.T if isinstance(module, nn.Linear) and stored.ndim == 2 else stored


def as_stored(module: nn.Module, values: Tensor) -> Tensor:
    """A view of (in, out) values in the module's layout; the inverse of :func:`input_major`."""
    return input_major(module, values)
