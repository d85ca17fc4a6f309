"""Patch files: a delta file with a further entry in its header, ``patch``.

The entry is JSON with the provenance and the checks. ``patch_digest`` covers it together with the
delta's digest, so that it cannot be moved to another edit. ``editkit.load_delta`` reads the delta
of such a file, and a plain delta file is a patch without provenance and checks.
"""

from __future__ import annotations

import json
from pathlib import Path

import pydantic

from editkit.editing.delta_files import read_delta_file, write_delta_file
from editkit.errors import DeltaError, EditkitError
from editkit.patches.content import Check, Movement, Origin, PatchContent, Size
from editkit.patches.sources import PROVENANCE
from editkit.storage.digests import sha256_of
from editkit.storage.strict_json import parse_json

__all__ = ["read_patch", "write_patch"]

_FORMAT = 1


class _Content(pydantic.BaseModel):
    """What the entry holds, with every type checked."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=False)

    format: int
    origin: Origin | None
    checks: tuple[Check, ...]
    drift: tuple[Movement, ...]
    size: Size | None = None
    remarks: tuple[str, ...] = ()


def write_patch(patch: PatchContent, path: str | Path) -> Path:
    """Write a patch, atomically.

    Raises:
        DeltaError: The file cannot be written, or its content is not plain data.
    """
    path = Path(path)
    content = {
        "format": _FORMAT,
        "origin": None if patch.origin is None else patch.origin.to_dict(),
        "checks": [
            {
                "question": check.question.to_dict(),
                "before": check.before.to_dict(),
                "after": check.after.to_dict(),
            }
            for check in patch.checks
        ],
        "drift": [vars(movement) for movement in patch.drift],
        "size": None if patch.size is None else patch.size.to_dict(),
        "remarks": list(patch.remarks),
    }
    try:
        text = json.dumps(content, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DeltaError(
            f"the patch cannot be saved as {str(path)!r}: {error}.",
            hint="Its origin and checks must be plain data with finite numbers.",
        ) from error
    digest = sha256_of([patch.delta.digest(), text])
    write_delta_file(patch.delta, path, {"patch": text, "patch_digest": digest})
    return path


def read_patch(path: str | Path) -> PatchContent:
    """Read a patch or a plain delta.

    Raises:
        DeltaError: The file is missing, damaged, a folder, or from a newer version.
    """
    _refuse_folder(Path(path))
    delta, header = read_delta_file(path)
    if "patch" not in header:
        return PatchContent(delta)
    text = header["patch"]
    if header.get("patch_digest") != sha256_of([delta.digest(), text]):
        raise _damaged(path, "its checks do not match their digest")
    try:
        data = parse_json(text)
        number = data.get("format") if isinstance(data, dict) else None
        if isinstance(number, int) and number > _FORMAT:
            raise DeltaError(
                f"the checks of {path} have format {number}, this version reads up to {_FORMAT}.",
                hint="Install a newer editkit; editkit.load_delta reads the edit alone.",
            )
        content = _Content.model_validate(data)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _damaged(path, f"{place}: {first['msg']}") from None
    except DeltaError:
        raise
    except (ValueError, EditkitError) as error:
        raise _damaged(path, str(error)) from None
    return PatchContent(
        delta, content.origin, content.checks, content.drift, content.size, content.remarks
    )


def _refuse_folder(path: Path) -> None:
    """Refuse a folder that editkit wrote, with what it is."""
    try:
        is_export, is_ledger = ((path / name).is_file() for name in (PROVENANCE, "ledger.json"))
        is_adapter = (path / "adapter_config.json").is_file()
    except OSError:  # the path itself may be invalid
        return
    if is_export:
        kind = "an adapter folder" if is_adapter else "a model folder"
        raise DeltaError(
            f"{str(path)!r} is {kind} (it has {PROVENANCE}), not a patch.",
            hint=f"Give the patch file that it was exported from; {PROVENANCE} describes the edit.",
        )
    if is_ledger:
        raise DeltaError(
            f"{str(path)!r} is a ledger (it has ledger.json), not a patch.",
            hint="'editkit patch list --ledger DIR' lists its patches; their files are in "
            "DIR/patches.",
        )


def _damaged(path: str | Path, problem: str) -> DeltaError:
    return DeltaError(f"{path} is damaged: {problem}.", hint="Copy the file again from its source.")
