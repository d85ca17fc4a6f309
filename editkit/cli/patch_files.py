"""What the actions on patches share: reading files, loading their model, comparing each two."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.cli.arguments import add_flag, path
from editkit.errors import DeltaError, ModelError, UsageError
from editkit.safe_text import one_line
from editkit.terminal import aligned, wrapped

if TYPE_CHECKING:
    from editkit.models.language_model import LanguageModel
    from editkit.patches.content import PatchContent

__all__ = [
    "add_files",
    "add_model_flags",
    "conflicts_data",
    "conflicts_text",
    "model_of",
    "names_of",
    "overlaps_text",
    "pair_table",
    "read_patches",
    "refuse_other_models",
]


def add_files(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the files of patches."""
    add_flag(parser, "files", nargs="+", type=path, metavar="FILE", complete="file", help="patches")


def add_model_flags(parser: argparse.ArgumentParser, *, purpose: str) -> None:
    """Add the flags of the model; ``purpose`` is the help of ``--model``."""
    add_flag(parser, "--model", help=purpose)
    add_flag(parser, "--device")
    add_flag(parser, "--dtype", default=None, shown_default="the patch's")


def read_patches(files: Sequence[Path]) -> list[PatchContent]:
    """The patches of all files.

    Raises:
        DeltaError: A file is missing or damaged, or is from a newer version.
    """
    from editkit.patches.files import read_patch

    return [read_patch(file) for file in files]


def names_of(files: Sequence[Path]) -> list[str]:
    """What to call the patches: the files' names without the folder that they share."""
    if len(files) == 1:
        return [one_line(str(files[0]))]
    shared = os.path.commonpath([file.absolute().parent for file in files])
    return [one_line(os.path.relpath(file, shared)) for file in files]


def model_of(args: argparse.Namespace, patches: Sequence[PatchContent]) -> LanguageModel:
    """The model of ``--model``, by default the one that the first patch names.

    Raises:
        UsageError: No patch names a model.
        ModelError: The model cannot be loaded.
    """
    from editkit.registry.models import load_model

    origin = next((patch.origin for patch in patches if patch.origin is not None), None)
    dtype = args.dtype or (origin.dtype if origin is not None else "float32")
    if args.model is not None:
        return load_model(args.model, dtype=dtype, device=args.device)
    if origin is None:
        raise UsageError(
            "these patches do not name their model.", hint="Name it: --model NAME or a folder."
        )
    try:
        return load_model(origin.model, dtype=dtype, device=args.device, revision=origin.revision)
    except ModelError as error:
        raise ModelError(
            f"the patch was made on {origin.model!r}, which cannot be loaded here: {error.message}",
            hint="Name the model, or its folder, with --model.",
        ) from error


def refuse_other_models(model: LanguageModel, patches: Sequence[PatchContent]) -> None:
    """Refuse patches of another model, for actions that cannot be forced to measure them.

    Raises:
        DeltaError: A patch was made on another model, or its weights do not fit.
    """
    from editkit.editing.deltas import check_fits
    from editkit.patches.interference import base_of

    own = model.weights.acceptable()
    for patch in patches:
        base = base_of(patch)
        if base in own or base == model.legacy_fingerprint:
            continue
        named = f" ({patch.origin.model})" if patch.origin is not None else ""
        try:
            check_fits(model, patch.delta)
        except DeltaError as error:
            raise DeltaError(
                error.message, hint=f"Give the model that it was made on{named} with --model."
            ) from None


def pair_table(names: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    """A number for each two patches, as text; columns are numbered as the rows are."""
    numbers = [str(number) for number in range(1, len(names) + 1)]
    rows = [("", "", *numbers)]
    for i, (number, name, row) in enumerate(zip(numbers, names, values, strict=True)):
        rows.append((number, name, *("" if i == j else f"{v:.2f}" for j, v in enumerate(row))))
    return aligned(rows)


def conflicts_text(names: Sequence[str], patches: Sequence[PatchContent]) -> str:
    """The conflicts between patches, a sentence each."""
    from editkit.patches.interference import conflicts

    sentences = [wrapped(f"{each.kind}: {each.sentence(names)}") for each in conflicts(patches)]
    return "".join(sentences) or "No conflicts.\n"


def overlaps_text(names: Sequence[str], table: Sequence[Sequence[float]]) -> str:
    """A sentence for each two patches that are likely to disturb each other."""
    from editkit.patches.interference import LARGE_OVERLAP

    return "".join(
        wrapped(
            f"{names[i]} and {names[j]} overlap by {table[i][j]:.2f}: 'editkit patch check "
            "--together' shows whether one of them suffers."
        )
        for i, j in itertools.combinations(range(len(names)), 2)
        if table[i][j] >= LARGE_OVERLAP
    )


def conflicts_data(names: Sequence[str], patches: Sequence[PatchContent]) -> list[dict[str, Any]]:
    """The conflicts as plain data."""
    from editkit.patches.interference import conflicts

    return [
        {"kind": each.kind, "patches": list(each.patches), "sentence": each.sentence(names)}
        for each in conflicts(patches)
    ]
