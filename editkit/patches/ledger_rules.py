"""Which patches a ledger accepts, and which it reverts."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from editkit.errors import LedgerError
from editkit.patches.content import PatchContent
from editkit.patches.interference import (
    LARGE_OVERLAP,
    REFUSED_UNLESS_FORCED,
    ConflictKind,
    conflicts,
    overlap,
)
from editkit.patches.ledger_state import BaseModel, LedgerEntry

__all__ = [
    "Given",
    "Objection",
    "disturbances",
    "objections",
    "objections_to_revert",
    "refuse_unfit",
    "remedies",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """A patch that someone wants to apply, or that is applied.

    Attributes:
        patch: The patch.
        title: What messages call it: ``paris.safetensors``, ``patch 3 (...)``.
        path: Its file; None for a patch in memory.
        sha256: Digest of the file.
        digest: Digest of its changes.
        number: Its number in the ledger if it is applied.
    """

    patch: PatchContent
    title: str
    path: Path | None = None
    sha256: str = ""
    digest: str = ""
    number: int | None = None

    @property
    def made_on(self) -> tuple[str, ...]:
        """Digests of the patches that it was made on top of, in order."""
        return self.patch.delta.made_on[1:]


def refuse_unfit(given: Given) -> None:
    """Refuse what no model folder can hold, even if forced.

    Raises:
        LedgerError: The patch puts texts before prompts, or changes nothing.
    """
    delta = given.patch.delta
    if delta.context is not None:
        raise LedgerError(
            f"{given.title} puts texts before prompts, which a model folder cannot hold.",
            hint="Apply an edit of weights: rome, memit, ft, ... The answers of this one need "
            "EditedModels.",
        )
    if not delta.changes:
        raise LedgerError(
            f"{given.title} changes no weight.",
            hint="Make it with an editor that changes weights: rome, memit, ft, ...",
        )


@dataclasses.dataclass(frozen=True)
class Objection:
    """Why a patch should not be applied.

    Attributes:
        kind: What is wrong. ``order``: the patches that it was made on top of are not applied.
        place: The place of the patch among the new ones.
        sentence: What is wrong, in words.
        other: The patch that it conflicts with, applied or new; None: it conflicts with none.
    """

    kind: ConflictKind
    place: int
    sentence: str
    other: Given | None = None


def objections(
    base: BaseModel, applied: Sequence[Given], new: Sequence[Given]
) -> Iterator[Objection]:
    """Why patches should not be applied; ``force`` overrules them.

    Args:
        base: The ledger's model.
        applied: The patches that are applied.
        new: The patches to apply.
    """
    available = {given.digest for given in (*applied, *new)}
    for place, given in enumerate(new):
        delta = given.patch.delta
        own = (*delta.made_on, delta.model_fingerprint)[0]
        if own not in (base.fingerprint, base.legacy):
            model = _model_of(given, own)
            sentence = f"{given.title} was made on {model}, and the ledger is for {base}"
            yield Objection("other model", place, sentence)
        elif absent := [digest for digest in given.made_on if digest not in available]:
            some = ", ".join(digest[:12] for digest in absent)
            others = f"the patch {some}, which is" if len(absent) == 1 else f"{some}, which are"
            sentence = f"{given.title} was made on top of {others} not applied"
            yield Objection("order", place, sentence)
    every = [*applied, *new]
    titles = [given.title for given in every]
    for conflict in conflicts([given.patch for given in every]):
        place = max(conflict.patches) - len(applied)
        if place >= 0 and conflict.kind in REFUSED_UNLESS_FORCED:  # others were forced earlier
            sentence = conflict.sentence(titles).rstrip(".")
            yield Objection(conflict.kind, place, sentence, every[min(conflict.patches)])


def remedies(against: Sequence[Objection], new: Sequence[Given]) -> str:
    """What to do instead of forcing, in sentences.

    Args:
        against: The objections.
        new: The patches to apply.
    """
    elsewhere = {each.place for each in against if each.kind == "other model"}
    sentences: list[str] = []
    to_revert: set[int] = set()
    for each in against:
        other = each.other
        if each.kind == "other model":
            sentences.append(_its_own_ledger(new[each.place]))
        elif each.place in elsewhere:
            continue
        elif each.kind == "order":
            sentences.append("Apply what it was made on top of first, or in the same command.")
        elif other is None or other.number is None:  # both are new
            twice = each.kind == "same patch"
            sentences.append("Give it only once." if twice else "Leave one of them out.")
        elif each.kind == "same patch":
            what = "there is nothing to do" if len(new) == 1 else "leave it out"
            sentences.append(f"It is applied already, as patch {other.number}: {what}.")
        else:
            to_revert.add(other.number)
    if to_revert:
        numbers = sorted(to_revert)
        several = f"{'patches' if len(numbers) > 1 else 'patch'} {' and '.join(map(str, numbers))}"
        command = f"editkit patch revert {' '.join(map(str, numbers))} --ledger DIR"
        sentences.append(f"To replace {several}, revert first: {command!r}.")
    return " ".join(dict.fromkeys(sentences))


def _its_own_ledger(given: Given) -> str:
    origin = given.patch.origin
    if origin is None:
        return "Use a ledger of the model that it was made on."
    model = f"--model {shlex.quote(origin.model)}"
    return (
        "Use a ledger of that model: 'editkit patch apply FILE --ledger DIR', with "
        f"{model} for a new ledger."
    )


def _model_of(given: Given, fingerprint: str) -> str:
    origin = given.patch.origin
    if origin is None:
        return f"another model ({fingerprint[:12]})"
    at = f" at revision {origin.revision}" if origin.revision else ""
    return f"{origin.model!r}{at} ({fingerprint[:12]})"


def disturbances(applied: Sequence[Given], new: Sequence[Given]) -> Iterator[str]:
    """Which new patches are likely to disturb others, a sentence for each, with the likeliest."""
    for number, given in enumerate(new):
        others = [other for other in (*applied, *new[:number]) if other.digest != given.digest]
        values = [overlap(other.patch, given.patch) for other in others]
        high = [value for value in values if value >= LARGE_OVERLAP]
        if high:
            largest = max(high)
            more = f", and {len(high) - 1} more" if len(high) > 1 else ""
            yield (
                f"{given.title} reacts to similar inputs as {others[values.index(largest)].title} "
                f"(overlap {largest:.2f}; 0 is none, 1 the same){more}: check these facts"
            )


def objections_to_revert(
    entries: Sequence[LedgerEntry], applied: Sequence[LedgerEntry]
) -> Iterator[tuple[int, str]]:
    """Why patches should not be reverted, a sentence each; ``force`` overrules them.

    Args:
        entries: The patches to revert.
        applied: All patches that are applied.

    Yields:
        The place of a patch in ``entries``, and what speaks against it.
    """
    numbers = {entry.number for entry in entries}
    rest = [entry for entry in applied if entry.number not in numbers]
    left = {entry.digest for entry in rest}  # the same patch may be applied twice, if forced
    for place, entry in enumerate(entries):
        for other in rest:
            if entry.digest in other.line.made_on and entry.digest not in left:
                yield place, f"patch {other} was made on top of patch {entry}"
