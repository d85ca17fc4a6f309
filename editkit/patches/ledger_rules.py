"""Which patches a ledger accepts, and which it reverts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from editkit.errors import LedgerError
from editkit.patches.content import PatchContent
from editkit.patches.interference import (
    LARGE_OVERLAP,
    REFUSED_UNLESS_FORCED,
    conflicts,
    overlap,
)
from editkit.patches.ledger_state import BaseModel, LedgerEntry

__all__ = [
    "Given",
    "disturbances",
    "objections",
    "objections_to_revert",
    "refuse_unfit",
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
    """

    patch: PatchContent
    title: str
    path: Path | None = None
    sha256: str = ""
    digest: str = ""

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


def objections(
    base: BaseModel, applied: Sequence[Given], new: Sequence[Given]
) -> Iterator[tuple[int, str]]:
    """Why patches should not be applied, a sentence each; ``force`` overrules them.

    Args:
        base: The ledger's model.
        applied: The patches that are applied.
        new: The patches to apply.

    Yields:
        The place of a patch in ``new``, and what is wrong with it.
    """
    available = {given.digest for given in (*applied, *new)}
    for place, given in enumerate(new):
        delta = given.patch.delta
        own = (*delta.made_on, delta.model_fingerprint)[0]
        if own not in (base.fingerprint, base.legacy):
            model = _model_of(given, own)
            yield place, f"{given.title} was made on {model}, and the ledger is for {base}"
        elif absent := [digest for digest in given.made_on if digest not in available]:
            some = ", ".join(digest[:12] for digest in absent)
            others = f"the patch {some}, which is" if len(absent) == 1 else f"{some}, which are"
            yield place, f"{given.title} was made on top of {others} not applied"
    every = [*applied, *new]
    titles = [given.title for given in every]
    for conflict in conflicts([given.patch for given in every]):
        place = max(conflict.patches) - len(applied)
        if place >= 0 and conflict.kind in REFUSED_UNLESS_FORCED:  # others were forced earlier
            yield place, conflict.sentence(titles).rstrip(".")


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
