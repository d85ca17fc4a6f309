"""Size of a delta, and how much of it is lost when weights are rounded to their type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editkit.editing.deltas import Change, Dense, LowRank, Rows, check_fits
from editkit.editing.outcomes import ROUNDED_AWAY
from editkit.errors import DeltaError
from editkit.models.orientation import input_major

if TYPE_CHECKING:
    from editkit.editing.deltas import WeightDelta
    from editkit.models import LanguageModel

__all__ = ["Effects"]

_SAFE = 16
"""A change is checked entry by entry only if its norm is below this many rounding steps of the
weight's norm."""
_ROWS = 1024  # checked at once


class Effects:
    """Measures deltas against the weights of one model, which must not change meanwhile.

    Args:
        model: The unedited model.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._norms: dict[str, float] = {}

    @torch.no_grad()
    def of(self, delta: WeightDelta) -> dict[str, Any]:
        """Notes about a delta.

        Returns:
            ``delta_norm``, its Frobenius norm; and ``rounded_away``, for a delta that is small
            compared to the weights: the share of the norm that is lost when the sums are rounded to
            the weights' type, from 0 to 1. With 1 the edited model is the unedited one, bit for
            bit. Empty for a delta that does not fit the model, which applying it will refuse.
        """
        try:
            check_fits(self._model, delta, force=True)
        except DeltaError:
            return {}
        squares = {name: _square_of(change) for name, change in delta.changes.items()}
        total = sum(squares.values())
        notes = {"delta_norm": total**0.5}
        small = [name for name, square in squares.items() if self._is_small(name, square)]
        if total > 0 and len(small) == len(squares):
            lost = sum(self._lost(name, delta.changes[name]) for name in small)
            notes[ROUNDED_AWAY] = min(1.0, (lost / total) ** 0.5)
        return notes

    def _weight(self, name: str) -> Tensor:
        weight: Tensor = self._model.hf.get_parameter(name)
        return weight.detach()

    def _is_small(self, name: str, square: float) -> bool:
        """Whether rounding could remove a good part of a change.

        If each entry of the change is below half a rounding step of its weight's, its norm is below
        that share of the weight's norm.
        """
        weight = self._weight(name)
        if name not in self._norms:
            self._norms[name] = float(weight.float().norm())
        step: float = torch.finfo(weight.dtype).eps
        return bool(square**0.5 < _SAFE * step * self._norms[name])

    def _lost(self, name: str, change: Change) -> float:
        """Squared norm of the part of a change that rounding removes, in blocks of rows."""
        module = self._model.module(name.rpartition(".")[0])
        weight = input_major(module, self._weight(name))  # (in, out) or (out,)
        dense = change.dense()
        lost = 0.0
        for start in range(0, len(weight), _ROWS):
            part = weight[start : start + _ROWS].float()
            wanted = dense[start : start + _ROWS].to(part)
            kept = (part + wanted).to(weight.dtype).float() - part
            lost += float((wanted - kept).double().square().sum())
        return lost


def _square_of(change: Change) -> float:
    """Squared Frobenius norm; of a low-rank change without forming it: tr(L'L RR')."""
    if isinstance(change, LowRank):
        left, right = change.left.double(), change.right.double()
        return max(0.0, float(((left.T @ left) * (right @ right.T)).sum()))
    values = change.values if isinstance(change, Rows | Dense) else change.dense()
    return float(torch.linalg.vector_norm(values.float())) ** 2  # twelve times as fast as float64
