"""Check whether patches still do what they did when they were made.

The questions in each file are asked again, without and with the patch. With --together, all patches
are applied at once, and each patch's questions show which facts suffer.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from editkit.cli.arguments import add_examples, add_flag
from editkit.cli.patch_files import (
    add_files,
    add_model_flags,
    conflicts_data,
    conflicts_text,
    model_of,
    names_of,
    pair_table,
    read_patches,
    refuse_other_models,
)
from editkit.errors import DeltaError
from editkit.storage.digests import plain
from editkit.terminal import wrapped

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel
    from editkit.patches.checking import Recheck
    from editkit.patches.content import PatchContent

EXIT_CHANGED = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    add_files(parser)
    add_model_flags(parser, purpose="the model (default: the one that the first patch names)")
    add_flag(
        parser, "--together", action="store_true", help="apply all patches at once, in this order"
    )
    add_flag(parser, "--json")
    add_examples(parser, "editkit patch check kenya.safetensors")


def run(args: argparse.Namespace) -> int:
    """Check the patches; 1 if one of them does something else now."""
    from editkit.patches.checking import recheck

    patches = read_patches(args.files)
    names = names_of(args.files)
    model = model_of(args, patches)
    refuse_other_models(model, patches)
    if not args.together:
        _refuse_alone(model, patches)
    results = [
        recheck(
            patch,
            model,
            patches[:number] if args.together else (),
            patches[number + 1 :] if args.together else (),
        )
        for number, patch in enumerate(patches)
    ]
    table = _interference(model, patches) if args.together else []
    if args.json:
        document = _document(args, model, names, patches, results, table)
        sys.stdout.write(json.dumps(plain(document), indent=2) + "\n")
    else:
        sys.stdout.write(_text(names, patches, results, table))
    return EXIT_CHANGED if any(result.ok is False for result in results) else 0


def _refuse_alone(model: LanguageModel, patches: Sequence[PatchContent]) -> None:
    """Refuse to check a patch alone that was made on top of others.

    Raises:
        DeltaError: There is one.
    """
    from editkit.editing.deltas import check_fits

    for patch in patches:
        if len(patch.delta.made_on) > 1:
            try:
                check_fits(model, patch.delta)
            except DeltaError as error:
                raise DeltaError(
                    error.message,
                    hint="Give those first, in that order, with --together; 'editkit patch show' "
                    "prints their digests.",
                ) from None


def _text(
    names: Sequence[str],
    patches: Sequence[PatchContent],
    results: Sequence[Recheck],
    table: Sequence[Sequence[float]],
) -> str:
    parts = []
    for name, result in zip(names, results, strict=True):
        word = {True: "same", False: "changed", None: "no checks"}[result.ok]
        parts.append(f"{name}: {word}\n")
        parts += [
            f"  {line}\n" for reason in result.reasons for line in wrapped(reason).splitlines()
        ]
    if len(table) > 1:
        parts.append(
            "\nHow much each patch (column) changes where another one (row) was made, relative to "
            f"what that one changes:\n\n{pair_table(names, table)}\n"
        )
        parts.append(conflicts_text(names, patches))
    return "".join(parts)


def _interference(model: LanguageModel, patches: Sequence[PatchContent]) -> list[list[float]]:
    """Row: the patch that may suffer; column: the other one."""
    from editkit.patches.interference import interference

    return [[1.0 if a is b else interference(model, a, b) for b in patches] for a in patches]


def _document(
    args: argparse.Namespace,
    model: LanguageModel,
    names: Sequence[str],
    patches: Sequence[PatchContent],
    results: Sequence[Recheck],
    table: Sequence[Sequence[float]],
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "schema": 1,
        "model": model.describe(),
        "together": args.together,
        "patches": [
            {"file": str(file), **result.to_dict()}
            for file, result in zip(args.files, results, strict=True)
        ],
    }
    if args.together:
        document["interference"] = [
            [value if math.isfinite(value) else None for value in row] for row in table
        ]
        document["conflicts"] = conflicts_data(names, patches)
    return document
