"""Products of changes, computed from their factors.

Neither a product of size (in, out) nor one of size (in, in) is formed for a low-rank change or a
change of rows.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from editkit.editing.changes import Change, LowRank, Rows

__all__ = ["InputFactor", "inner_product"]


@dataclasses.dataclass(frozen=True)
class InputFactor:
    """The inputs that a change A reacts to, as a matrix K with ``K K' = A A'``.

    Attributes:
        values: The rows of K that are not zero, (n, k), float64, k at most n.
        indices: Their numbers, (n,); None: all rows in order.
        n_rows: Number of rows of the whole weight (in).
    """

    values: Tensor
    indices: Tensor | None
    n_rows: int

    @classmethod
    def of(cls, change: Change, size: float = 1.0) -> InputFactor:
        """The factor of ``change / size``."""
        if isinstance(change, LowRank):
            left, right = _double(change.left) / size, _double(change.right)
            return cls(_narrow(left @ _narrow(right)), None, left.shape[0])
        values, indices, n_rows = _rows_of(change)
        return cls(_narrow(values / size), indices, n_rows)

    def product(self, other: InputFactor) -> float:
        """``<A A', B B'> = ||K' L||^2``; 0 for a weight with another number of rows."""
        if self.n_rows != other.n_rows:
            return 0.0
        ours, theirs = _common_rows(self.values, self.indices, other.values, other.indices)
        return float((ours.T @ theirs).square().sum())


def inner_product(a: Change, b: Change) -> float:
    """``<A, B>``, the sum of the products of their entries; 0 if their shapes differ."""
    if a.shape != b.shape:
        return 0.0
    if isinstance(a, LowRank) and isinstance(b, LowRank):
        keys = _double(a.left).T @ _double(b.left)  # (r_a, r_b)
        return float((keys * (_double(a.right) @ _double(b.right).T)).sum())
    if isinstance(b, LowRank):
        a, b = b, a
    values, indices, _ = _rows_of(b)
    if isinstance(a, LowRank):
        left = _double(a.left) if indices is None else _double(a.left)[indices]
        return float(((left.T @ values) * _double(a.right)).sum())
    own, own_indices, _ = _rows_of(a)
    ours, theirs = _common_rows(own, own_indices, values, indices)
    return float((ours * theirs).sum())


def _rows_of(change: Change) -> tuple[Tensor, Tensor | None, int]:
    """The rows of a change (n, out), their numbers, and how many rows the weight has."""
    if isinstance(change, Rows):
        return _double(change.values), change.indices.cpu().long(), change.n_rows
    whole = _double(change.dense())
    whole = whole if whole.ndim == 2 else whole[None]  # a bias: the weight of a constant input
    return whole, None, len(whole)


def _common_rows(
    a: Tensor, a_indices: Tensor | None, b: Tensor, b_indices: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The rows that both have, in one order."""
    if a_indices is None:
        return (a, b) if b_indices is None else (a[b_indices], b)
    if b_indices is None:
        return a, b[a_indices]
    same = a_indices[:, None] == b_indices  # (n_a, n_b)
    ours, theirs = same.nonzero(as_tuple=True)
    return a[ours], b[theirs]


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def _narrow(matrix: Tensor) -> Tensor:
    """A matrix M of (n, k), k at most n, with the same ``M M'``."""
    n, k = matrix.shape
    return matrix if k <= n else torch.linalg.qr(matrix.T, mode="r").R.T
