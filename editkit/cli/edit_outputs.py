"""What ``editkit edit`` prints besides the report."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.storage.digests import plain

if TYPE_CHECKING:
    from editkit.patches.content import PatchContent

__all__ = ["next_steps", "page_width", "patch_document"]

_NARROWEST, _PIPED, _WIDEST = 40, 80, 100


def page_width() -> int:
    """Characters per line: the terminal's, or 80 for pipes."""
    if not sys.stdout.isatty():
        return _PIPED
    return max(_NARROWEST, min(shutil.get_terminal_size().columns, _WIDEST))


def next_steps(saved: Iterable[Path], model: str) -> str:
    """Which files were written, and what to do with them."""
    paths = [shlex.quote(str(path)) for path in saved]
    if not paths:
        return "Nothing was saved: --save FILE writes the edit as a patch.\n"
    lines = [
        *(f"Saved {path}" for path in paths),
        f"  editkit patch show {paths[0]}",
        f"  editkit patch export {paths[0]} --out FOLDER",
        f"  editkit patch apply {paths[0]} --model {shlex.quote(model)} --ledger FOLDER",
    ]
    return "\n".join(lines) + "\n"


def patch_document(patch: PatchContent, saved: Path | None) -> dict[str, Any]:
    """A patch as plain data: what it did, and where it was saved."""
    from editkit.patches.overview import took_effect
    from editkit.patches.verdict import verdict_of

    document = {
        "editor": patch.editor,
        "saved": None if saved is None else str(saved),
        "took_effect": took_effect(patch),
        "verdict": verdict_of(patch).to_dict(),
        "notes": dict(patch.delta.notes),
        "origin": None if patch.origin is None else patch.origin.to_dict(),
        "checks": [
            {
                "question": check.question.to_dict(),
                "before": dataclasses.asdict(check.before),
                "after": dataclasses.asdict(check.after),
            }
            for check in patch.checks
        ],
        "remarks": list(patch.remarks),
        "drift": [dataclasses.asdict(movement) for movement in patch.drift],
    }
    return dict(plain(document))  # a broken model computes NaN, which is not JSON
