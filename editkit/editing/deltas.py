"""Edits as values: what is added to which weights, and for whom.

A :class:`WeightDelta` maps parameter names to changes. Changes are written input-major,
(in, out), however the model stores its weights. They are applied to a model for the length of a
``with`` block (:func:`applied`), or stacked over many rows of one batch
(:class:`editkit.editing.edited.EditedModels`), and the model itself is never altered for good.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from editkit.data_types import EditRequest
from editkit.editing.changes import Change, Dense, LowRank, Rows, moved, summed
from editkit.errors import DeltaError
from editkit.models.checksums import chained, lineage
from editkit.models.language_model import LanguageModel
from editkit.models.orientation import as_stored
from editkit.models.weights import AppliedEdit
from editkit.storage.digests import digest_of_tensors

__all__ = [
    "Change",
    "Dense",
    "LowRank",
    "Rows",
    "WeightDelta",
    "applied",
    "check_all_fit",
    "check_fits",
    "stack",
]


@dataclasses.dataclass(frozen=True, eq=False)
class WeightDelta:
    """One edit.

    Attributes:
        changes: Changes by parameter name (``transformer.h.5.mlp.c_proj.weight``).
        request: The fact that it writes, or the facts of a joint edit; None for merged deltas.
        editor: Name of the editor that made it.
        config: The editor's configuration as plain data.
        model_fingerprint: Fingerprint of the model that it was made on.
        notes: Plain facts about the edit: ``loss``, ``unstable`` with its reason.
        made_on: Of an edit that was made while others were applied: the fingerprint of the base
            model, and the digests of those edits, in order. Empty for one of a base model. Known
            by itself, from ``model_fingerprint``.
    """

    changes: Mapping[str, Change] = dataclasses.field(repr=False)
    request: EditRequest | tuple[EditRequest, ...] | None
    editor: str
    config: Mapping[str, Any]
    model_fingerprint: str
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    made_on: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    def __post_init__(self) -> None:
        made_on = tuple(self.made_on)
        if not made_on or _identity(made_on) != self.model_fingerprint:
            made_on = lineage(self.model_fingerprint)
        object.__setattr__(self, "made_on", made_on)

    def digest(self) -> str:
        """Hexadecimal digest of what it changes, and of nothing else."""
        tensors: dict[str, Tensor] = {}
        kinds = []
        for name, change in self.changes.items():
            kinds.append((name, type(change).__name__, list(change.shape)))
            tensors |= {f"{name}/{field}": t for field, t in change.tensors().items()}
        return digest_of_tensors(tensors, repr(sorted(kinds)))

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

    Low-rank changes stay low-rank (their ranks add up), rows stay rows; mixtures become dense. Sums
    are formed in float32 at least.

    Args:
        deltas: All of one model; or each made on that model, or while some of those before it were
            applied, as for :func:`applied`.

    Raises:
        DeltaError: There are none, or they were made for different models.
    """
    if not deltas:
        raise DeltaError("there are no deltas to stack.", hint="Give at least one.")
    if len({delta.model_fingerprint for delta in deltas}) > 1:
        _check_sequence([deltas[0].model_fingerprint], deltas)
    changes: dict[str, list[Change]] = {}
    for delta in deltas:
        for name, change in delta.changes.items():
            changes.setdefault(name, []).append(change)
    return WeightDelta(
        changes={name: summed(name, some) for name, some in changes.items()},
        request=tuple(request for delta in deltas for request in delta.requests),
        editor="+".join(dict.fromkeys(delta.editor for delta in deltas)),
        config={},
        model_fingerprint=deltas[0].model_fingerprint,
        notes={"stacked": len(deltas)},
        made_on=deltas[0].made_on,
    )


def _check_sequence(identities: list[str], deltas: Sequence[WeightDelta]) -> None:
    """Refuse deltas of which one was not made on any state of the model on the way to it."""
    for delta in deltas:
        if not delta.changes:
            continue
        if delta.model_fingerprint not in identities:
            raise DeltaError(
                "these deltas were made for different models.",
                hint="Stack only edits of one model; edits made on top of others come after them, "
                "in the order in which they were made.",
            )
        identities.append(chained(identities[-1], delta.digest()))


@contextlib.contextmanager
def applied(
    model: LanguageModel,
    delta: WeightDelta | Sequence[WeightDelta],
    *,
    force: bool = False,
) -> Iterator[LanguageModel]:
    """The model with the edit inside the block, and its very bytes back afterwards.

    Blocks may be nested, overlap, and be left in any order: at every moment a weight is its
    original plus the sum of all edits that are applied, formed in float32 and rounded once to the
    weight's type. Several deltas therefore do exactly what :func:`stack` of them does. When the
    last edit of a weight ends, the weight is put back from a copy, never by subtraction; after
    exceptions too, and when a block that was never left is collected.

    Inside, the model has another :attr:`~editkit.LanguageModel.fingerprint`: nothing that is
    computed there is taken for a result of the model without the edit, and a delta made there is
    an edit on top of this one.

    Args:
        model: The model to edit for the length of the block.
        delta: One delta, or several that are added up. Each must have been made on the model as
            loaded, or with the first few of the edits applied that are applied before it, in the
            same order.
        force: Apply a delta that was made for another model, if the shapes allow it.

    Raises:
        DeltaError: The delta was made for another model, or does not fit this one; another thread
            has edits applied to the model, which belongs to one thread as long as it is edited;
            or weights were changed by other means while edits are applied.
    """
    deltas = [delta] if isinstance(delta, WeightDelta) else list(delta)
    check_all_fit(model, deltas, force=force, in_order=True)
    look = force  # otherwise it was done by the check
    with contextlib.ExitStack() as exits:
        for each in deltas:
            if each.changes:
                ticket = model.weights.apply(_layer(model, each), look=look)
                look = False
                exits.callback(model.weights.take_back, ticket)
        yield model


def _layer(model: LanguageModel, delta: WeightDelta) -> AppliedEdit:
    digest: list[str] = []

    def once() -> str:
        if not digest:
            digest.append(delta.digest())
        return digest[0]

    def total(name: str, layers: Sequence[AppliedEdit]) -> Tensor:
        """What layers add to a parameter, in the weight's own layout, float32."""
        weight = model.hf.get_parameter(name)
        changes = [moved(layer.edit.changes[name], weight.device) for layer in layers]
        dense = summed(name, changes).dense().to(torch.float32)
        return as_stored(model.module(name.rpartition(".")[0]), dense)

    return AppliedEdit(tuple(delta.changes), once, total, delta)


def check_fits(model: LanguageModel, delta: WeightDelta, *, force: bool = False) -> None:
    """Refuse a delta of another model, unless forced, and one whose names or shapes do not fit.

    Raises:
        DeltaError: It does not fit.
    """
    check_all_fit(model, [delta], force=force)


def check_all_fit(
    model: LanguageModel,
    deltas: Sequence[WeightDelta],
    *,
    force: bool = False,
    in_order: bool = False,
) -> None:
    """As :func:`check_fits`, for several deltas, looking at the model's weights once.

    Args:
        model: The model.
        deltas: The deltas.
        force: Accept those of other models.
        in_order: Whether each may be made on top of those before it.

    Raises:
        DeltaError: One does not fit.
    """
    if not force and any(delta.changes for delta in deltas):
        identities = model.weights.acceptable()
        for place, delta in enumerate(deltas):
            if not delta.changes:
                continue
            mine = delta.model_fingerprint in identities
            if not mine and delta.model_fingerprint != model.legacy_fingerprint:
                raise _made_elsewhere(model, delta, identities[0])
            if in_order and any(later.made_on for later in deltas[place + 1 :]):
                identities.append(chained(identities[-1], delta.digest()))
    for delta in deltas:
        _check_shapes(model, delta)


def _made_elsewhere(model: LanguageModel, delta: WeightDelta, base: str) -> DeltaError:
    """Why a delta is refused, and what to do."""
    made_on = delta.made_on
    if made_on and made_on[0] in (base, model.legacy_fingerprint):
        below = ", ".join(edit[:12] for edit in made_on[1:])
        n = len(made_on) - 1
        return DeltaError(
            f"this edit was made on {model.name} with {n} other edit{'s' if n > 1 else ''} "
            f"applied ({below}, in this order), which {'are' if n > 1 else 'is'} not what is "
            "applied now.",
            hint="Apply those first, in that order: with applied(model, [FIRST, ..., THIS]). "
            "delta.digest() says which is which. Or force it: its numbers then mean something "
            "else.",
        )
    return DeltaError(
        f"this edit was made for the model {delta.model_fingerprint[:12]}, but {model.name} "
        f"is {model.fingerprint[:12]}.",
        hint="Load the model it was made for, or force it if you know that it fits.",
    )


def _check_shapes(model: LanguageModel, delta: WeightDelta) -> None:
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


def _identity(made_on: Sequence[str]) -> str:
    identity, *edits = made_on
    for edit in edits:
        identity = chained(identity, edit)
    return identity
