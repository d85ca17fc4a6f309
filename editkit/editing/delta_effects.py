"""How much deltas change a model's weights, and how much of that is lost to rounding.

Also logs the warning about failed edits after an editor is called.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editkit.data_types import EditRequest
from editkit.editing.deltas import (
    Change,
    Dense,
    LowRank,
    Rows,
    WeightDelta,
    check_fits,
    notes_of_facts,
)
from editkit.editing.outcomes import BASELINE, CONTEXT_TEXTS, ROUNDED_AWAY, Edit, outcomes_of
from editkit.errors import DeltaError
from editkit.models.weight_layout import input_major

if TYPE_CHECKING:
    from editkit.models import LanguageModel

__all__ = ["Effects", "norm_of", "share_kept", "warn_of_failed"]

_SAFE = 16
"""A change is checked entry by entry only if its norm is below this many rounding steps of the
weight's norm."""
_ROWS = 1024  # checked at once
_MOST_NAMES = 3
_log = logging.getLogger(__name__)


class Effects:
    """Measures deltas against the weights of one model, which must stay constant.

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
            ``delta_norm``, its Frobenius norm; ``context_texts``, the number of texts that it puts
            before prompts, if any; and, for a delta that is small compared to the weights,
            ``rounded_away``: the share of the norm, from 0 to 1, that is lost when the edited
            weights are rounded to their type. At 1 they are bit-exact with the unedited ones. Empty
            if the delta does not fit the model; applying it will raise.
        """
        try:
            check_fits(self._model, delta, force=True)
        except DeltaError:
            return {}
        squares = {name: _square_of(change) for name, change in delta.changes.items()}
        total = sum(squares.values())
        notes: dict[str, Any] = {"delta_norm": total**0.5}
        if delta.context is not None:
            notes[CONTEXT_TEXTS] = len(delta.context.texts)
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

        If each entry of the change is below half a rounding step of its weight, the norm of the
        change is below the same share of the weight's norm.
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


@torch.no_grad()
def share_kept(model: LanguageModel, delta: WeightDelta, dtype: torch.dtype) -> float:
    """The share of a delta that remains if the model is stored in another type, from 0 to 1.

    With W and D the weights and their change, and r() rounding to the type, that is the length of
    the rounded change ``r(W + D) - r(W)`` along D: ``<D, r(W + D) - r(W)> / <D, D>``. Rounding
    errors of single entries, which cancel in a product with many entries, do not count.

    Args:
        model: The unedited model.
        delta: The edit.
        dtype: The other type.
    """
    along = total = 0.0
    for name, change in delta.changes.items():
        module = model.module(name.rpartition(".")[0])
        weight = input_major(module, model.hf.get_parameter(name))  # (in, out) or (out,)
        dense = change.dense()
        for start in range(0, len(weight), _ROWS):
            part = weight[start : start + _ROWS].float()
            wanted = dense[start : start + _ROWS].to(part)
            kept = (part + wanted).to(dtype).float() - part.to(dtype).float()
            along += float((wanted.double() * kept.double()).sum())
            total += float(wanted.double().square().sum())
    return min(1.0, max(0.0, along / total)) if total > 0 else 1.0


def norm_of(change: Change) -> float:
    """Frobenius norm of a change; a low-rank change is not formed for it."""
    return float(_square_of(change) ** 0.5)


def _square_of(change: Change) -> float:
    """Squared Frobenius norm; of a low-rank change without forming it: tr(L'L RR')."""
    if isinstance(change, LowRank):
        left, right = change.left.double(), change.right.double()
        return max(0.0, float(((left.T @ left) * (right @ right.T)).sum()))
    values = change.values if isinstance(change, Rows | Dense) else change.dense()
    return float(torch.linalg.vector_norm(values.float())) ** 2  # twelve times as fast as float64


# ---------------------------------------------------------------- the report of a call


def warn_of_failed(model: Any, deltas: Any) -> None:
    """Log one warning if some of the deltas that an editor returned did not work.

    Args:
        model: The model that was edited.
        deltas: The editor's return value: deltas, one delta, or a step's delta with the state.
            Anything else is ignored.
    """
    if isinstance(deltas, tuple):
        deltas = next(iter(deltas), None)
    if isinstance(deltas, WeightDelta):
        deltas = [deltas]
    if not isinstance(deltas, list) or not all(isinstance(each, WeightDelta) for each in deltas):
        return  # the caller will reject them
    if not deltas or deltas[0].editor == BASELINE:
        return
    try:
        effects = Effects(model)
        measured = [effects.of(delta) for delta in deltas]
    except Exception as error:  # applying them will raise it again
        _log.debug("the deltas could not be measured", exc_info=error)
        measured = [{} for _ in deltas]
    edits = [
        Edit(_name_of(request), {**own, **notes})
        for delta, own in zip(deltas, measured, strict=True)
        if isinstance(delta.notes, Mapping)
        for request, notes in zip(delta.requests or (None,), notes_of_facts(delta), strict=True)
    ]
    outcomes = outcomes_of(edits)
    if outcomes:
        which = [edit.name for edit in edits if outcomes_of([edit])]
        more = f" and {len(which) - _MOST_NAMES} more" if len(which) > _MOST_NAMES else ""
        names = "; ".join(which[:_MOST_NAMES])
        _log.warning("%s: %s The requests: %s%s.", deltas[0].editor, outcomes.summary, names, more)


def _name_of(request: EditRequest | None) -> str:
    return "a request" if request is None else f"{request.sentence!r} -> {request.target_new!r}"
