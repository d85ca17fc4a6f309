"""Edits as values: what is added to which weights, and for whom.

A :class:`WeightDelta` maps parameter names to changes. Changes are written input-major,
(in, out), however the model stores its weights. They are applied to a model for the length of a
``with`` block (:func:`applied`), or stacked over many rows of one batch
(:class:`editkit.edited.EditedModels`), and the model itself is never altered for good.
"""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from editkit.errors import DeltaError
from editkit.layout import as_stored
from editkit.models.language_model import LanguageModel
from editkit.requests import EditRequest

__all__ = ["Change", "Dense", "LowRank", "Rows", "WeightDelta", "applied", "check_fits", "stack"]


@dataclasses.dataclass(frozen=True, eq=False)
class Change(ABC):
    """What is added to one parameter."""

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

    def is_finite(self) -> bool:
        """Whether every number is finite."""
        return all(bool(torch.isfinite(t).all()) for t in self.tensors().values())


@dataclasses.dataclass(frozen=True, eq=False)
class LowRank(Change):
    """``left @ right``, of rank r.

    Attributes:
        left: (in, r)
        right: (r, out)
    """

    left: Tensor
    right: Tensor

    def __post_init__(self) -> None:
        left, right = self.left.shape, self.right.shape
        if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
            raise DeltaError(
                f"a low-rank change has factors of shapes {tuple(left)} and {tuple(right)}.",
                hint="Give (in, r) and (r, out).",
            )

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


@dataclasses.dataclass(frozen=True, eq=False)
class Rows(Change):
    """A few input rows: ``values[i]`` is added to row ``indices[i]``.

    Attributes:
        indices: (n,) whole numbers, without repeats.
        values: (n, out)
        n_rows: Number of rows of the whole weight (in).
    """

    indices: Tensor
    values: Tensor
    n_rows: int

    def __post_init__(self) -> None:
        n = len(self.indices)
        inside = n == 0 or (int(self.indices.min()) >= 0 and int(self.indices.max()) < self.n_rows)
        if self.values.shape[0] != n or len(set(self.indices.tolist())) != n or not inside:
            raise DeltaError(
                f"a row change has {n} indices of {self.n_rows} rows and values of shape "
                f"{tuple(self.values.shape)}.",
                hint="Give distinct indices within the rows, and one row of values for each.",
            )

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


@dataclasses.dataclass(frozen=True, eq=False)
class Dense(Change):
    """Every entry.

    Attributes:
        values: (in, out) for a weight, (out,) for a bias.
    """

    values: Tensor

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


@dataclasses.dataclass(frozen=True, eq=False)
class WeightDelta:
    """One edit.

    Attributes:
        changes: Changes by parameter name (``transformer.h.5.mlp.c_proj.weight``).
        request: The fact that it writes, or the facts of a joint edit; None for merged deltas.
        editor: Name of the editor that made it.
        config: The editor's configuration as plain data.
        model_fingerprint: Fingerprint of the model that it was made for.
        notes: Plain facts about the edit: ``loss``, ``unstable`` with its reason.
    """

    changes: Mapping[str, Change] = dataclasses.field(repr=False)
    request: EditRequest | tuple[EditRequest, ...] | None
    editor: str
    config: Mapping[str, Any]
    model_fingerprint: str
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def is_finite(self) -> bool:
        """Whether every number of every change is finite."""
        return all(change.is_finite() for change in self.changes.values())

    def norm(self) -> float:
        """Frobenius norm over all changed parameters."""
        squares = [float(change.dense().double().norm()) ** 2 for change in self.changes.values()]
        return float(sum(squares) ** 0.5)

    @property
    def requests(self) -> tuple[EditRequest, ...]:
        """The facts that it writes."""
        if self.request is None:
            return ()
        return self.request if isinstance(self.request, tuple) else (self.request,)


def stack(deltas: Sequence[WeightDelta]) -> WeightDelta:
    """One delta that does what all of them do together: their changes are summed.

    Low-rank changes stay low-rank (their ranks add up), rows stay rows; mixtures become dense.

    Raises:
        DeltaError: There are none, or they were made for different models.
    """
    if not deltas:
        raise DeltaError("there are no deltas to stack.", hint="Give at least one.")
    fingerprints = {delta.model_fingerprint for delta in deltas}
    if len(fingerprints) > 1:
        raise DeltaError(
            f"these deltas were made for {len(fingerprints)} different models.",
            hint="Stack only edits of one model.",
        )
    changes: dict[str, Change] = {}
    for delta in deltas:
        for name, change in delta.changes.items():
            changes[name] = change if name not in changes else _sum(name, changes[name], change)
    return WeightDelta(
        changes=changes,
        request=tuple(request for delta in deltas for request in delta.requests),
        editor="+".join(dict.fromkeys(delta.editor for delta in deltas)),
        config={},
        model_fingerprint=deltas[0].model_fingerprint,
        notes={"stacked": len(deltas)},
    )


def _sum(name: str, first: Change, second: Change) -> Change:
    if first.shape != second.shape:
        raise DeltaError(
            f"two changes of {name} have shapes {first.shape} and {second.shape}.",
            hint="Stack only edits of one model.",
        )
    if isinstance(first, LowRank) and isinstance(second, LowRank):
        return LowRank(
            torch.cat([first.left, second.left], dim=1),  # (in, r1 + r2)
            torch.cat([first.right, second.right], dim=0),  # (r1 + r2, out)
        )
    if isinstance(first, Rows) and isinstance(second, Rows):
        both = torch.cat([first.indices, second.indices])  # (n1 + n2,)
        indices, places = torch.unique(both, return_inverse=True)
        values = torch.cat([first.values, second.values])  # (n1 + n2, out)
        summed = values.new_zeros(len(indices), values.shape[1]).index_add(0, places, values)
        return Rows(indices, summed, first.n_rows)
    return Dense(first.dense() + second.dense())


@contextlib.contextmanager
def applied(
    model: LanguageModel,
    delta: WeightDelta | Sequence[WeightDelta],
    *,
    force: bool = False,
) -> Iterator[LanguageModel]:
    """The model with the edit inside the block, and its very bytes back afterwards.

    The weights are put back from a copy, never by subtraction, after exceptions too. The sum is
    formed in float32 and rounded once to the weight's type.

    Args:
        model: The model to edit for the length of the block.
        delta: One delta, or several that are added up.
        force: Apply a delta that was made for another model, if the shapes allow it.

    Raises:
        DeltaError: The delta was made for another model, or does not fit this one.
    """
    deltas = [delta] if isinstance(delta, WeightDelta) else list(delta)
    for each in deltas:
        check_fits(model, each, force=force)
    saved: list[tuple[torch.nn.Parameter, Tensor]] = []
    try:
        with torch.no_grad():
            for each in deltas:
                for name, change in each.changes.items():
                    weight = model.hf.get_parameter(name)
                    saved.append((weight, weight.detach().clone()))
                    weight.copy_(_changed(model, name, weight, change))
        yield model
    finally:
        with torch.no_grad():
            for weight, before in reversed(saved):
                weight.copy_(before)


def check_fits(model: LanguageModel, delta: WeightDelta, *, force: bool = False) -> None:
    """Refuse a delta of another model, unless forced, and one whose names or shapes do not fit.

    Raises:
        DeltaError: It does not fit.
    """
    if delta.changes and delta.model_fingerprint != model.fingerprint and not force:
        raise DeltaError(
            f"this edit was made for the model {delta.model_fingerprint[:12]}, but {model.name} "
            f"is {model.fingerprint[:12]}.",
            hint="Load the model it was made for, or force it if you know that it fits.",
        )
    for name, change in delta.changes.items():
        try:
            weight = model.hf.get_parameter(name)
        except AttributeError:
            raise DeltaError(
                f"{model.name} has no parameter {name!r}.",
                hint="Check that the edit was made for this architecture.",
            ) from None
        module = model.module(name.rpartition(".")[0])
        if tuple(as_stored(module, torch.empty(change.shape, device="meta")).shape) != tuple(
            weight.shape
        ):
            raise DeltaError(
                f"the change of {name} has shape {change.shape} (in, out), which does not fit "
                f"the stored weight {tuple(weight.shape)}.",
                hint="Check that the edit was made for this model's size.",
            )


def _changed(model: LanguageModel, name: str, weight: Tensor, change: Change) -> Tensor:
    """The weight plus its change, in the weight's own layout and type."""
    module = model.module(name.rpartition(".")[0])
    update = as_stored(module, change.dense().to(weight.device, torch.float32))
    return (weight.float() + update).to(weight.dtype)
