"""The patches that users name: by themselves, by file, by number, or by digest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from editkit.editing.deltas import WeightDelta
from editkit.errors import LedgerError
from editkit.patches.content import PatchContent
from editkit.patches.files import write_patch
from editkit.patches.ledger_rules import Given
from editkit.patches.ledger_state import LedgerEntry, fact_in_words
from editkit.patches.patch import Patch
from editkit.safe_text import one_line
from editkit.storage.digests import file_blocks, sha256_of

__all__ = ["PatchLike", "as_list", "given_patches", "selected"]

PatchLike: TypeAlias = PatchContent | WeightDelta | str | Path
"""A patch, a delta, or a patch file."""

_SHORTEST_DIGEST = 6
_MOST_NUMBERS = 20


def as_list(patches: object) -> list[Any]:
    """One or several patches as a list.

    Raises:
        LedgerError: There are none, or it is something else.
    """
    if isinstance(patches, int | str | Path | PatchContent | WeightDelta):
        return [patches]
    if not isinstance(patches, Iterable):
        raise _wrong(patches)
    several = list(patches)
    if not several:
        raise LedgerError("no patch is given.", hint="Give at least one.")
    return several


def given_patches(patches: Sequence[PatchLike], temporary: Path) -> list[Given]:
    """The patches as users gave them; those in memory are written to a temporary folder.

    Raises:
        DeltaError: A file cannot be read.
    """
    every = []
    for number, each in enumerate(patches):
        if isinstance(each, str | Path):
            path, title = Path(each), repr(str(each))
            before = sha256_of(file_blocks(path)) if path.is_file() else ""
            patch: PatchContent = Patch.load(path)
        else:
            patch = PatchContent(each) if isinstance(each, WeightDelta) else _checked(each)
            path = write_patch(patch, temporary / f"{number}.safetensors")
            before = sha256_of(file_blocks(path))
            fact = next(iter(fact_in_words(patch)), "no fact recorded")
            title = one_line(f"the {patch.editor} patch ({fact})")
        every.append(Given(patch, title, path, before, patch.delta.digest()))
    return every


def _checked(patch: object) -> PatchContent:
    if isinstance(patch, PatchContent):
        return patch
    raise _wrong(patch)


def _wrong(patch: object) -> LedgerError:
    return LedgerError(
        f"got {type(patch).__name__} {patch!r:.80}, expected a patch, a delta, or the path of a "
        "patch file.",
        hint="Give what editkit.edit returns, or a file that Patch.save wrote.",
    )


def selected(
    entries: Sequence[LedgerEntry],
    which: int | PatchLike,
    *,
    applied: bool = False,
    before: Sequence[int] = (),
) -> LedgerEntry:
    """The entry that a number, digest, patch or file means.

    Args:
        entries: The entries to choose from.
        which: The number, ...
        applied: Whether it must be applied.
        before: Numbers of those that were chosen before, which are not chosen again.

    Raises:
        LedgerError: There is none, or several.
    """
    if isinstance(which, bool) or not isinstance(which, int | str | Path):
        patch = PatchContent(which) if isinstance(which, WeightDelta) else _checked(which)
        digest, title = patch.delta.digest(), "that patch"
    elif isinstance(which, int) or which in {str(entry.number) for entry in entries}:
        digest, title = "", f"patch {which}"
    elif Path(which).is_file():
        digest, title = Patch.load(which).delta.digest(), f"the patch in {str(which)!r}"
    else:
        digest, title = str(which).lower(), f"a patch with the digest {str(which)!r}"
        if len(digest) < _SHORTEST_DIGEST or set(digest) - set("0123456789abcdef"):
            digest, title = "?", f"{str(which)!r}"
    if digest:
        matching = [entry for entry in entries if entry.digest.startswith(digest)]
    else:
        matching = [entry for entry in entries if entry.number == int(str(which))]
    if matching and all(entry.number in before for entry in matching):
        raise LedgerError(f"{title} is given twice.", hint="Give each patch once.")
    matching = [entry for entry in matching if entry.number not in before]
    chosen = [entry for entry in matching if entry.applied or not applied]
    if len({entry.digest for entry in chosen}) > 1:
        numbers = ", ".join(str(entry.number) for entry in chosen)
        raise LedgerError(f"{title} can be patch {numbers}.", hint="Give the number.")
    if chosen:
        return chosen[-1]
    if matching and (line := matching[-1].reverted):
        raise LedgerError(
            f"patch {matching[-1]} is not applied: {line.by} reverted it at {line.time}.",
            hint="'editkit patch list --ledger DIR' lists the applied patches.",
        )
    raise LedgerError(f"{title} is not in the ledger.", hint=_what_there_is(entries, applied))


def _what_there_is(entries: Sequence[LedgerEntry], applied: bool) -> str:
    """The patches that can be named instead, for a hint."""
    show = "'editkit patch list --ledger DIR' lists them"
    known = [entry for entry in entries if entry.applied or not applied]
    if known:
        return (
            f"Give a number ({_numbers(known)}), the first {_SHORTEST_DIGEST} or more characters "
            f"of a digest, or a patch file; {show}."
        )
    if not entries:
        return "Apply one first: there is no patch to name."
    several = "patches {} are" if len(entries) > 1 else "patch {} is"
    state = several.format(_numbers(entries))
    return f"There is nothing to revert: {state} reverted already; {show}."


def _numbers(entries: Sequence[LedgerEntry]) -> str:
    """Numbers of patches; of many, the newest."""
    numbers = ", ".join(str(entry.number) for entry in entries[-_MOST_NUMBERS:])
    return f"..., {numbers}" if len(entries) > _MOST_NUMBERS else numbers
