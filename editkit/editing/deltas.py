"""Edits as values: the changes to each weight and the requests they were made for.

A :class:`WeightDelta` maps parameter names to changes. Changes are input-major, (in, out),
however the model stores its weights. They are applied to a model in a ``with`` block
(:func:`applied`), or to rows of a batch (:class:`~editkit.editing.edited_models.EditedModels`);
the model itself is never changed permanently.

A delta may also put texts before prompts (:class:`PromptContext`), with changes of weights or
without. Weights cannot carry these, so only ``EditedModels`` can ask such an edited model.
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
from editkit.editing.prompt_context import PromptContext, joined_contexts
from editkit.errors import DeltaError
from editkit.mistakes import expect, expect_list
from editkit.models.checksums import chained, lineage
from editkit.models.language_model import LanguageModel
from editkit.models.weight_layout import as_stored
from editkit.models.weights import AppliedEdit
from editkit.reprs import arrow, counted, html_table, listed, notebook_html, summary
from editkit.storage.digests import digest_of_tensors

__all__ = [
    "Change",
    "Dense",
    "LowRank",
    "PromptContext",
    "Rows",
    "WeightDelta",
    "applied",
    "check_all_fit",
    "check_fits",
    "compacted",
    "notes_of_facts",
    "stack",
]

_ROWS = 20  # of a table in a notebook


@dataclasses.dataclass(frozen=True, eq=False)
class WeightDelta:
    """One edit.

    Attributes:
        changes: Changes by parameter name (``transformer.h.5.mlp.c_proj.weight``).
        request: The edited fact, or the facts of a joint edit; None for merged deltas.
        editor: Name of the editor that made it.
        config: The editor's configuration as plain data.
        model_fingerprint: Fingerprint of the model that it was made on.
        notes: Plain facts about the edit: ``loss``, ``unstable`` with its reason. A joint edit may
            have ``facts``: the notes of each of its requests, in order.
        made_on: For an edit made while others were applied, the fingerprint of the base model and
            the digests of those edits, in order. Empty for an edit of the base model. Derived from
            ``model_fingerprint`` by default.
        context: Texts that the edit puts before every prompt; None for an edit of weights alone.
        made_for: The model's name and revision, for messages; not part of its identity or its file.
    """

    changes: Mapping[str, Change]
    request: EditRequest | tuple[EditRequest, ...] | None
    editor: str
    config: Mapping[str, Any]
    model_fingerprint: str
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    made_on: tuple[str, ...] = ()
    context: PromptContext | None = None
    made_for: str = ""

    def __post_init__(self) -> None:
        expect(self.changes, "mapping", "changes", "WeightDelta(changes, ...)")
        made_on = tuple(self.made_on)
        if not made_on or _identity(made_on) != self.model_fingerprint:
            made_on = lineage(self.model_fingerprint)
        object.__setattr__(self, "made_on", made_on)

    @summary
    def __repr__(self) -> str:
        facts = [arrow(each.sentence, each.target_new) for each in self.requests]
        many = f"{counted(len(facts), 'fact')}, the first " if len(facts) > 1 else ""
        changes = [f"{name} ({change.form})" for name, change in self.changes.items()]
        changes += [] if self.context is None else [self._context_form(self.context)]
        return (
            f"WeightDelta by {self.editor}: {many}{facts[0] if facts else 'no facts'}; "
            f"{listed(changes) or 'no changes'}"
        )

    @notebook_html
    def _repr_html_(self) -> str:
        """A table for notebooks: the facts, and each changed parameter with the change's form."""
        facts = [("fact", arrow(r.sentence, r.target_new)) for r in self.requests[:_ROWS]]
        changes = [(name, change.form) for name, change in list(self.changes.items())[:_ROWS]]
        context = [] if self.context is None else [("texts", self._context_form(self.context))]
        left_out = max(0, len(self.requests) - _ROWS) + max(0, len(self.changes) - _ROWS)
        note = f"{left_out:,} more" if left_out else ""
        return html_table(f"WeightDelta by {self.editor}", [*facts, *changes, *context], note=note)

    @staticmethod
    def _context_form(context: PromptContext) -> str:
        return f"{counted(len(context.texts), 'text')} before every prompt"

    def digest(self) -> str:
        """Hexadecimal digest of the changes and the context."""
        tensors: dict[str, Tensor] = {}
        kinds = []
        for name, change in self.changes.items():
            kinds.append((name, type(change).__name__, list(change.shape)))
            tensors |= {f"{name}/{field}": t for field, t in change.tensors().items()}
        described = repr(sorted(kinds))
        if self.context is not None:
            described += self.context.digest_text()
        return digest_of_tensors(tensors, described)

    def without_context(self) -> WeightDelta:
        """The changes of weights alone, which :func:`applied` accepts."""
        return self if self.context is None else dataclasses.replace(self, context=None)

    def is_finite(self) -> bool:
        """Whether all changes are finite."""
        return all(change.is_finite() for change in self.changes.values())

    def norm(self) -> float:
        """Frobenius norm over all changed parameters; a context does not count."""
        squares = [float(change.dense().double().norm()) ** 2 for change in self.changes.values()]
        return float(sum(squares) ** 0.5)

    @property
    def requests(self) -> tuple[EditRequest, ...]:
        """The edited facts."""
        if self.request is None:
            return ()
        return self.request if isinstance(self.request, tuple) else (self.request,)


def stack(deltas: Sequence[WeightDelta]) -> WeightDelta:
    """Merge deltas into one: the sum of their changes, and the texts of their contexts in order.

    Low-rank changes stay low-rank (their ranks add up), rows stay rows; mixtures become dense. Sums
    are computed in at least float32.

    Args:
        deltas: Deltas of one model. As for :func:`applied`, a delta may also have been made while
            earlier ones were applied.

    Raises:
        DeltaError: The sequence is empty, the deltas were made for different models, or their
            contexts have different settings.
    """
    expect_list(deltas, "WeightDelta", "deltas", "stack(deltas)")
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
        context=joined_contexts([delta.context for delta in deltas if delta.context is not None]),
        made_for=deltas[0].made_for,
    )


def compacted(delta: WeightDelta) -> WeightDelta:
    """The delta with every low-rank change as a dense one where that takes less memory."""
    changes = {name: _compacted(change) for name, change in delta.changes.items()}
    if all(changes[name] is change for name, change in delta.changes.items()):
        return delta
    return dataclasses.replace(delta, changes=changes)


def _compacted(change: Change) -> Change:
    if isinstance(change, LowRank):
        (d, r), h = change.left.shape, change.right.shape[1]
        if r * (d + h) > d * h:
            return Dense(change.dense())
    return change


def notes_of_facts(delta: WeightDelta) -> list[dict[str, Any]]:
    """The notes of each request of a delta, in order; one entry for a delta without requests."""
    common = {key: value for key, value in delta.notes.items() if key != "facts"}
    n, facts = max(1, len(delta.requests)), delta.notes.get("facts")
    if not isinstance(facts, list | tuple) or len(facts) != n:
        return [dict(common) for _ in range(n)]
    return [{**common, **own} if isinstance(own, Mapping) else dict(common) for own in facts]


def _check_sequence(identities: list[str], deltas: Sequence[WeightDelta]) -> None:
    """Raise unless each delta was made on the base model or on top of earlier deltas."""
    for delta in deltas:
        if not delta.changes:
            continue
        if delta.model_fingerprint not in identities:
            raise DeltaError(
                "these deltas were made for different models.",
                hint="Stack only edits of one model, and put edits made on top of others after "
                "them, in the order in which they were made.",
            )
        identities.append(chained(identities[-1], delta.without_context().digest()))


@contextlib.contextmanager
def applied(
    model: LanguageModel,
    delta: WeightDelta | Sequence[WeightDelta],
    *,
    force: bool = False,
) -> Iterator[LanguageModel]:
    """Apply edits inside the block; its end restores the original weights bit for bit.

    Blocks may nest, overlap, and end in any order: a weight is always the original plus the sum of
    all applied edits, computed in float32 and rounded once to the weight's type. Applying several
    deltas is therefore exactly the same as applying their :func:`stack`. When the last edit of a
    weight ends, the weight is restored from a copy, never by subtraction. This also holds after
    exceptions, and when a block that was never exited is garbage-collected.

    Inside, the model has a different :attr:`~editkit.LanguageModel.fingerprint`: results computed
    there are never mistaken for results of the unedited model, and a delta made there is an edit on
    top of this one.

    Args:
        model: The model to edit within the block.
        delta: One delta, or several to sum. Each must have been made on the model as loaded, or on
            top of the first of the edits that now precede it, in the same order.
        force: Apply a delta that was made for another model, if the shapes allow it.

    Raises:
        DeltaError: The delta was made for another model or does not fit this one; it puts texts
            before prompts; another thread has edits applied to the model, which belongs to one
            thread while it is edited; or weights were changed by other means while edits are
            applied.
    """
    call = "applied(model, delta)"
    expect(model, "LanguageModel", "model", call)
    if isinstance(delta, Sequence):
        expect_list(delta, "WeightDelta", "delta", call)
    else:
        expect(delta, "WeightDelta", "delta", call)
    deltas = list(delta) if isinstance(delta, Sequence) else [delta]
    if any(each.context is not None for each in deltas):
        raise DeltaError(
            "this edit puts texts before prompts, which weights cannot carry.",
            hint="Ask the edited model with EditedModels(model, [delta]), which adds the texts. "
            "delta.without_context() has the changes of weights alone.",
        )
    check_all_fit(model, deltas, force=force, in_order=True)
    look = force  # otherwise the check has already looked
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
        """Sum of the layers' changes to a parameter, in the layout of the weight, float32."""
        weight = model.hf.get_parameter(name)
        changes = [moved(layer.edit.changes[name], weight.device) for layer in layers]
        dense = summed(name, changes).dense().to(torch.float32)
        return as_stored(model.module(name.rpartition(".")[0]), dense)

    return AppliedEdit(tuple(delta.changes), once, total, delta)


def check_fits(model: LanguageModel, delta: WeightDelta, *, force: bool = False) -> None:
    """Raise if names or shapes do not fit or, unless forced, if the delta is for another model.

    Raises:
        DeltaError: The delta does not fit.
    """
    check_all_fit(model, [delta], force=force)


def check_all_fit(
    model: LanguageModel,
    deltas: Sequence[WeightDelta],
    *,
    force: bool = False,
    in_order: bool = False,
    look: bool = True,
) -> None:
    """:func:`check_fits` for several deltas, reading the model's weights at most once.

    Args:
        model: The model.
        deltas: The deltas.
        force: Accept deltas of other models.
        in_order: Whether a delta may have been made on top of the ones before it.
        look: Whether to read the weights; otherwise, writes through ``.data`` since they were last
            read are not noticed.

    Raises:
        DeltaError: A delta does not fit.
    """
    if not force and any(delta.changes for delta in deltas):
        identities = model.weights.acceptable(look=look)
        for place, delta in enumerate(deltas):
            if not delta.changes:
                continue
            mine = delta.model_fingerprint in identities
            if not mine and delta.model_fingerprint != model.legacy_fingerprint:
                raise _made_elsewhere(model, delta, identities[0])
            if in_order and any(later.made_on for later in deltas[place + 1 :]):
                identities.append(chained(identities[-1], delta.without_context().digest()))
    for delta in deltas:
        _check_shapes(model, delta)


def _made_elsewhere(model: LanguageModel, delta: WeightDelta, base: str) -> DeltaError:
    """Error for a delta made for another model or on top of edits that are not applied."""
    made_on = delta.made_on
    if made_on and made_on[0] in (base, model.legacy_fingerprint):
        below = ", ".join(edit[:12] for edit in made_on[1:])
        n = len(made_on) - 1
        return DeltaError(
            f"this edit was made on {model.name} with {n} other edit{'s' if n > 1 else ''} "
            f"applied ({below}, in this order), which {'are' if n > 1 else 'is'} not what is "
            "applied now.",
            hint="Apply those first, in that order: with applied(model, [FIRST, ..., THIS]); "
            "delta.digest() identifies them. Or force it; its effect is then undefined.",
        )
    named = f" ({delta.made_for!r})" if delta.made_for else ""
    return DeltaError(
        f"this edit was made for the model {delta.model_fingerprint[:12]}{named}, but {model.name} "
        f"is {model.fingerprint[:12]}.",
        hint="Load the model that it was made for, or force it if you know that it fits.",
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
                f"the change of {name} has the shape {change.shape} (in, out), which does not fit "
                f"the stored weight of shape {tuple(weight.shape)}.",
                hint="Check that the edit was made for this model's size.",
            )


def _identity(made_on: Sequence[str]) -> str:
    identity, *edits = made_on
    for edit in edits:
        identity = chained(identity, edit)
    return identity
