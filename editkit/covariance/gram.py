"""A growing Gram matrix Σ k kᵀ, without the half that symmetry repeats."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["Gram", "Sum"]

_ROWS = 512  # of a block


@dataclasses.dataclass(frozen=True)
class Gram:
    """Σ k kᵀ over keys k of width D.

    Products are computed in float32, whatever the keys' type, and added in float64.

    Attributes:
        blocks: The rows of the matrix in blocks of 512, each from its first row's diagonal entry
            on: block b is (512, D - 512 b), the last one shorter; float64.
    """

    blocks: Sequence[Tensor]

    @classmethod
    def of(cls, keys: Tensor) -> Gram:
        """The matrix of keys, (tokens, D)."""
        return cls([product.double() for product in _products(keys)])

    def add_keys(self, keys: Tensor) -> None:
        """Add the matrix of further keys, (tokens, D)."""
        for block, product in zip(self.blocks, _products(keys), strict=True):
            block += product

    def add(self, other: Gram) -> None:
        """Add another matrix."""
        for block, summand in zip(self.blocks, other.blocks, strict=True):
            block += summand

    def cpu(self) -> Gram:
        """The matrix in main memory."""
        return Gram([block.cpu() for block in self.blocks])

    def over(self, count: int) -> Tensor:
        """Σ k kᵀ / count, (D, D), float32, in main memory."""
        width = self.blocks[0].shape[1]
        whole = torch.empty(width, width)
        for number, block in enumerate(self.blocks):
            first = number * _ROWS
            part = (block / count).float().cpu()  # (rows, D - first)
            whole[first : first + len(part), first:] = part
            whole[first:, first : first + len(part)] = part.T
        return whole


def _products(keys: Tensor) -> Iterator[Tensor]:
    keys = keys.float()
    for first in range(0, keys.shape[1], _ROWS):
        yield keys[:, first : first + _ROWS].T @ keys[:, first:]


@dataclasses.dataclass
class Sum:
    """A growing sum over batches of keys, or over other sums.

    Attributes:
        gram: Σ k kᵀ; None before the first summand.
        count: Number of keys.
        added: Number of summands.
        whole: False while something is being added, so that an interrupted sum is not saved.
    """

    gram: Gram | None = None
    count: int = 0
    added: int = 0
    whole: bool = True

    def add_keys(self, keys: Tensor) -> None:
        """Add a batch of keys, (tokens, D)."""
        self.whole = False
        if self.gram is None:
            self.gram = Gram.of(keys)
        else:
            self.gram.add_keys(keys)
        self._count(len(keys))

    def add(self, other: Sum) -> None:
        """Add another sum, which is not used any more."""
        if other.gram is None:
            raise AssertionError(other)
        self.whole = False
        if self.gram is None:
            self.gram = other.gram
        else:
            self.gram.add(other.gram)
        self._count(other.count)

    def _count(self, keys: int) -> None:
        self.count += keys
        self.added += 1
        self.whole = True

    def cpu(self) -> Sum:
        """The sum in main memory."""
        return self if self.gram is None else dataclasses.replace(self, gram=self.gram.cpu())
