"""Changes of one parameter (low-rank, a few rows, dense), and their sums.

Changes are input-major, (in, out), however the model stores its weights.
"""

from __future__ import annotations

import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from editkit.errors import DeltaError
from editkit.reprs import summary

_FLOATS = {torch.float32, torch.float64, torch.bfloat16, torch.float16}
_INTEGERS = {torch.int64, torch.int32}  # other types are masks or invalid indices

__all__ = ["Change", "Dense", "LowRank", "Rows", "moved", "summed"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Change(ABC):
    """A tensor to add to one parameter, in a compact form."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The whole change, input-major: (in, out) for a weight, (out,) for a bias."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that make up the change, by field name."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of :meth:`dense`."""

    @property
    def form(self) -> str:
        """Its form and shape, for people: ``rank 1, (768, 192)``."""
        return f"dense, {self.shape}"

    @summary
    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.form}"

    def is_finite(self) -> bool:
        """Whether every number is finite."""
        return all(bool(torch.isfinite(t).all()) for t in self.tensors().values())


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LowRank(Change):
    """``left @ right``, of rank r.

    Attributes:
        left: (in, r)
        right: (r, out)
    """

    left: Tensor
    right: Tensor

    def __post_init__(self) -> None:
        _check_numbers(self.left, self.right)
        left, right = self.left.shape, self.right.shape
        if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
            raise DeltaError(
                f"a low-rank change has factors of shapes {tuple(left)} and {tuple(right)}.",
                hint="Give (in, r) and (r, out).",
            )

    @property
    @override
    def form(self) -> str:
        return f"rank {self.left.shape[1]}, {self.shape}"

    @override
    def dense(self) -> Tensor:
        return self.left @ self.right

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {"left": self.left, "right": self.right}

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return self.left.shape[0], self.right.shape[1]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rows(Change):
    """A few input rows: ``values[i]`` is added to row ``indices[i]``.

    Attributes:
        indices: (n,) whole numbers, without repeats.
        values: (n, out)
        n_rows: Number of rows in the whole weight (in).
    """

    indices: Tensor
    values: Tensor
    n_rows: int

    def __post_init__(self) -> None:
        _check_numbers(self.values)
        _check_tensors(self.indices)
        if (
            self.indices.ndim != 1
            or self.indices.dtype not in _INTEGERS
            or self.values.ndim != 2
            or type(self.n_rows) is not int
        ):
            raise DeltaError(
                f"a row change has indices of shape {tuple(self.indices.shape)} and type "
                f"{self.indices.dtype}, values of shape {tuple(self.values.shape)}, and "
                f"{self.n_rows!r:.40} rows.",
                hint="Give (n,) whole numbers, (n, out) values, and a whole number of rows.",
            )
        n = len(self.indices)
        inside = n == 0 or (int(self.indices.min()) >= 0 and int(self.indices.max()) < self.n_rows)
        if self.values.shape[0] != n or len(set(self.indices.tolist())) != n or not inside:
            raise DeltaError(
                f"a row change has {n} indices of {self.n_rows} rows and values of shape "
                f"{tuple(self.values.shape)}.",
                hint="Give distinct indices within the rows, and one row of values for each.",
            )

    @property
    @override
    def form(self) -> str:
        return f"{len(self.indices)} of {self.n_rows} rows, {self.shape}"

    @override
    def dense(self) -> Tensor:
        whole = self.values.new_zeros(self.shape)
        whole[self.indices] = self.values
        return whole

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {"indices": self.indices, "values": self.values}

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return self.n_rows, self.values.shape[1]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dense(Change):
    """Every entry.

    Attributes:
        values: (in, out) for a weight, (out,) for a bias.
    """

    values: Tensor

    def __post_init__(self) -> None:
        _check_numbers(self.values)
        if self.values.ndim not in (1, 2):
            raise DeltaError(
                f"a dense change has the shape {tuple(self.values.shape)}.",
                hint="Give (in, out) for a weight, (out,) for a bias.",
            )

    @override
    def dense(self) -> Tensor:
        return self.values

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {"values": self.values}

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)


def _check_tensors(*values: object) -> None:
    for value in values:
        if not isinstance(value, Tensor):
            raise DeltaError(
                f"a change has {value!r:.60} of type {type(value).__name__}, expected a tensor.",
                hint="Make it one: torch.tensor(numbers).",
            )


def _check_numbers(*tensors: Tensor) -> None:
    """Raise unless all tensors have the same supported floating-point type."""
    _check_tensors(*tensors)
    types = {tensor.dtype for tensor in tensors}
    if len(types) > 1 or not types <= _FLOATS:
        raise DeltaError(
            f"a change has tensors of type {' and '.join(sorted(map(str, types)))}.",
            hint="Give float32, float64, bfloat16 or float16, the same for all its tensors.",
        )


def summed(name: str, changes: Sequence[Change]) -> Change:
    """Sum the changes of one parameter, from left to right."""
    shapes = {change.shape for change in changes}
    if len(shapes) > 1:
        raise DeltaError(
            f"changes of {name} have shapes {' and '.join(map(str, sorted(shapes)))}.",
            hint="Stack only edits of one model.",
        )
    total: list[Change] = []
    for kind, group in itertools.groupby(changes, type):
        total.append(_sum_of_kind(kind, list(group)))
    first, *others = total
    if not others:
        return first
    dense = _wide(first.dense())
    for other in others:
        dense = dense + _wide(other.dense())
    return Dense(dense)


def _sum_of_kind(kind: type[Change], changes: list[Any]) -> Change:
    if len(changes) == 1:
        only: Change = changes[0]
        return only
    if kind is LowRank:
        return LowRank(
            torch.cat([_wide(change.left) for change in changes], dim=1),  # (in, r1 + r2)
            torch.cat([_wide(change.right) for change in changes], dim=0),  # (r1 + r2, out)
        )
    if kind is Rows:
        every = torch.cat([change.indices for change in changes])  # (n1 + n2,)
        indices, places = torch.unique(every, return_inverse=True)
        values = torch.cat([_wide(change.values) for change in changes])  # (n1 + n2, out)
        summed = values.new_zeros(len(indices), values.shape[1]).index_add(0, places, values)
        return Rows(indices, summed, changes[0].n_rows)
    dense = _wide(changes[0].dense())
    for change in changes[1:]:
        dense = dense + _wide(change.dense())
    return Dense(dense)


def _wide(values: Tensor) -> Tensor:
    """In float32, or in the tensor's own type if that is wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def moved(change: Change, device: torch.device) -> Change:
    """Copy a change to a device, with values in at least float32."""
    own = change.tensors()
    tensors = {
        field: (_wide(t) if t.is_floating_point() else t).to(device) for field, t in own.items()
    }
    if all(tensors[field] is own[field] for field in own):
        return change
    return dataclasses.replace(change, **tensors)
