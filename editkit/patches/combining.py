"""Several patches as one, and what differs between two."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit.editing.change_products import inner_product
from editkit.editing.changes import Change, LowRank, Rows
from editkit.editing.delta_effects import norm_of
from editkit.editing.deltas import notes_of_facts, stack
from editkit.errors import DeltaError
from editkit.patches.content import Check, Origin, PatchContent, Question
from editkit.patches.interference import (
    REFUSED_UNLESS_FORCED,
    Conflict,
    base_of,
    conflicts,
    overlap,
)
from editkit.patches.measuring import measured

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel

__all__ = [
    "ChangedWeight",
    "Difference",
    "PatchDifference",
    "check_combinable",
    "diff",
    "form_of",
    "parts_of",
    "stacked",
]

# ---------------------------------------------------------------- several as one


def stacked(
    patches: Sequence[PatchContent],
    *,
    force: bool = False,
    model: LanguageModel | None = None,
    names: Sequence[str] | None = None,
) -> PatchContent:
    """One patch with the edits of several.

    Its notes list the parts. A patch's checks hold for that patch alone, so the stack has none
    unless a model is given, which answers all their questions again.

    Args:
        patches: The patches, in order.
        force: Combine them even if two are the same, or write one fact twice or with two objects.
        model: The unedited model, to measure checks, drift and size of the stack.
        names: Names of the patches for errors, such as their files.

    Raises:
        DeltaError: There are no patches; they conflict; or a patch does not fit the model.
    """
    check_combinable(patches, force=force, names=names)
    delta = stack([patch.delta for patch in patches])
    facts = [_own_notes(notes) for patch in patches for notes in notes_of_facts(patch.delta)]
    parts = [part for patch in patches for part in parts_of(patch) or [_as_part(patch)]]
    notes = {**delta.notes, "facts": facts, "parts": parts}
    delta = dataclasses.replace(delta, notes=notes)
    origin = _joint_origin(patches)
    remarks = tuple(dict.fromkeys(remark for patch in patches for remark in patch.remarks))
    if model is None:
        return PatchContent(delta, origin, remarks=remarks)
    [results] = measured(model, [delta], _questions_of(patches))
    return PatchContent(delta, origin, *results, remarks=remarks)


def check_combinable(
    patches: Sequence[PatchContent], *, force: bool = False, names: Sequence[str] | None = None
) -> None:
    """Raise if patches should not be combined; arguments and errors as for :func:`stacked`."""
    if not patches:
        raise DeltaError("there are no patches to combine.", hint="Give at least one.")
    if names is None:
        names = [f"patch {number}" for number in range(1, len(patches) + 1)]
    alone = len({patch.delta.model_fingerprint for patch in patches}) == 1
    for conflict in conflicts(patches):
        if conflict.kind in REFUSED_UNLESS_FORCED:
            if not force:
                raise DeltaError(
                    f"{conflict.kind}: {conflict.sentence(names)}",
                    hint="Leave one of them out, or force it if you want both.",
                )
        elif conflict.kind != "order" or not alone:  # all may be on top of the same absent edit
            raise DeltaError(
                f"{conflict.kind}: {conflict.sentence(names)}", hint=_HINTS[conflict.kind]
            )


_HINTS = {
    "order": "Give all patches, in the order in which they were made.",
    "other model": "Combine only patches of one model.",
    "context": "Make these edits with the same settings.",
}


def _questions_of(patches: Sequence[PatchContent]) -> list[Question]:
    """All questions once; what one patch edits is not a neighbour or another fact of the others."""
    every = dict.fromkeys(check.question for patch in patches for check in patch.checks)
    edited = {(each.prompt, each.chat) for each in every if each.role == "edit"}
    return [q for q in every if q.role == "edit" or (q.prompt, q.chat) not in edited]


def _own_notes(notes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in notes.items() if key not in ("parts", "stacked")}


def parts_of(patch: PatchContent) -> list[dict[str, Any]]:
    """The patches that a stack was made of, from its notes; none for any other patch.

    Returns:
        For each part its ``digest``, ``editor``, ``config``, ``facts`` (statements) and time, as
        ``created``.
    """
    parts = patch.delta.notes.get("parts")
    if not isinstance(parts, list | tuple):
        return []
    return [dict(part) for part in parts if _is_part(part)]


def _is_part(part: Any) -> bool:
    """Whether a note of a file, which anybody can write, is what :func:`stacked` writes."""
    return (
        isinstance(part, Mapping)
        and isinstance(part.get("digest"), str)
        and isinstance(part.get("editor"), str)
        and isinstance(part.get("config"), Mapping)
        and isinstance(part.get("facts"), list | tuple)
        and all(isinstance(fact, str) for fact in part["facts"])
    )


def _as_part(patch: PatchContent) -> dict[str, Any]:
    return {
        "digest": patch.delta.digest(),
        "editor": patch.editor,
        "config": dict(patch.delta.config),
        "facts": [request.statement for request in patch.requests],
        "created": patch.origin.created if patch.origin else None,
    }


def _joint_origin(patches: Sequence[PatchContent]) -> Origin | None:
    """The first patch's origin, with the time of stacking, the total of seconds, all versions."""
    origins = [patch.origin for patch in patches if patch.origin is not None]
    if not origins:
        return None
    versions: dict[str, list[str]] = {}
    for origin in origins:
        for name, version in origin.versions.items():
            if version not in versions.setdefault(name, []):
                versions[name].append(version)
    return dataclasses.replace(
        origins[0],
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        seconds=math.fsum(origin.seconds for origin in origins),
        versions={name: ", ".join(some) for name, some in versions.items()},
    )


# ---------------------------------------------------------------- what differs


@dataclasses.dataclass(frozen=True)
class Difference:
    """Something that two patches have different values of.

    Attributes:
        name: What: ``fact.target_new``, ``settings.layer``, ``origin.versions.torch``.
        first: The first patch's value, as plain data; None if it has none.
        second: The second patch's value.
    """

    name: str
    first: Any
    second: Any


@dataclasses.dataclass(frozen=True)
class ChangedWeight:
    """A parameter that at least one of two patches changes.

    Attributes:
        name: Its name.
        forms: What the change of each patch is: ``rank 1``, ``3 rows``, ``dense``; None: no change.
        norms: Frobenius norm of each change; 0 for none.
        cosine: Cosine of the two changes, from -1 to 1; None unless both change it and were made
            on one model.
    """

    name: str
    forms: tuple[str | None, str | None]
    norms: tuple[float, float]
    cosine: float | None


@dataclasses.dataclass(frozen=True)
class PatchDifference:
    """What differs between two patches.

    Attributes:
        same_edit: Whether both make the same changes, bit for bit.
        differences: Facts, editor, settings and origin with different values.
        weights: The parameters that they change.
        norms: Frobenius norm of each patch.
        same_model: Whether both were made on one model; otherwise, their changes cannot be
            compared.
        cosine: Cosine of the changes, over all parameters, from -1 to 1; None if one has none, or
            if they cannot be compared.
        overlap: :func:`~editkit.patches.interference.overlap`; None if they cannot be compared.
        conflicts: Why they should not be applied together.
        checks: The questions that both were asked, with the checks of both.
    """

    same_edit: bool
    differences: tuple[Difference, ...]
    weights: tuple[ChangedWeight, ...]
    norms: tuple[float, float]
    same_model: bool
    cosine: float | None
    overlap: float | None
    conflicts: tuple[Conflict, ...]
    checks: tuple[tuple[Check, Check], ...]

    def to_dict(self) -> dict[str, Any]:
        """The difference as plain data."""
        return dataclasses.asdict(self)


def diff(a: PatchContent, b: PatchContent) -> PatchDifference:
    """What differs between two patches; neither needs a model."""
    values = [dict(_values_of(patch)) for patch in (a, b)]
    differences = [
        Difference(name, values[0].get(name), values[1].get(name))
        for name in dict.fromkeys([*values[0], *values[1]])
        if values[0].get(name) != values[1].get(name)
    ]
    changes = a.delta.changes, b.delta.changes
    same_model = base_of(a) == base_of(b)
    weights = [
        _changed(name, *changes, comparable=same_model)
        for name in sorted({*changes[0], *changes[1]})
    ]
    norms = math.hypot(*(w.norms[0] for w in weights)), math.hypot(*(w.norms[1] for w in weights))
    product = math.fsum(w.cosine * w.norms[0] * w.norms[1] for w in weights if w.cosine is not None)
    answered = {_asked(check.question): check for check in b.checks}
    return PatchDifference(
        same_edit=a.delta.digest() == b.delta.digest(),
        differences=tuple(differences),
        weights=tuple(weights),
        norms=norms,
        same_model=same_model,
        cosine=_cosine(product, norms) if same_model else None,
        overlap=overlap(a, b) if same_model else None,
        conflicts=tuple(conflicts([a, b])),
        checks=tuple(
            (check, answered[_asked(check.question)])
            for check in a.checks
            if _asked(check.question) in answered
        ),
    )


def form_of(change: Change) -> str:
    """What a change is, in words: ``rank 1``, ``3 rows``, ``dense``."""
    if isinstance(change, LowRank):
        return f"rank {change.left.shape[1]}"
    if isinstance(change, Rows):
        n = len(change.indices)
        return f"{n} row{'' if n == 1 else 's'}"
    return "dense"


def _changed(
    name: str, a: Mapping[str, Change], b: Mapping[str, Change], *, comparable: bool
) -> ChangedWeight:
    one, other = a.get(name), b.get(name)
    norms = (norm_of(one) if one else 0.0, norm_of(other) if other else 0.0)
    cosine = None
    if one and other and comparable:
        cosine = _cosine(inner_product(one, other), norms)
    return ChangedWeight(
        name, (form_of(one) if one else None, form_of(other) if other else None), norms, cosine
    )


def _cosine(product: float, norms: tuple[float, float]) -> float | None:
    own = norms[0] * norms[1]
    return max(-1.0, min(1.0, product / own)) if own else None


def _asked(question: Question) -> tuple[str, str | None, bool]:
    return question.prompt, question.separator, question.chat


def _values_of(patch: PatchContent) -> Iterator[tuple[str, Any]]:
    """Everything that patches are compared by, by name, as plain data."""
    if len(patch.requests) == 1:
        yield from _flat("fact", vars(patch.requests[0]))
    else:
        yield from ((f"fact {request.statement!r}", True) for request in patch.requests)
    yield "editor", patch.editor
    yield from _flat("settings", patch.delta.config)
    yield "base model", base_of(patch)
    yield "made on top of", list(patch.delta.made_on[1:]) or None
    if patch.delta.context is not None:
        yield from _flat("texts before prompts", patch.delta.context.to_dict())
    if patch.origin is not None:
        origin = patch.origin.to_dict()
        origin.pop("seconds")
        yield from _flat("origin", origin)


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}.{name}", value)
        else:
            yield f"{prefix}.{name}", list(value) if isinstance(value, tuple) else value
