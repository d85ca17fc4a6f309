"""Write one patch with the edits of several.

Refuses patches that are the same or write one fact twice or with two objects, unless --force is
given, and always patches of different models. With --model, the model answers all their checks
again, and the file has the answers; without, it has no checks.
"""

from __future__ import annotations

import argparse
import sys

from editkit.cli.arguments import add_examples, add_flag
from editkit.cli.patch_files import (
    add_files,
    add_model_flags,
    model_of,
    names_of,
    overlaps_text,
    read_patches,
    refuse_other_models,
)
from editkit.errors import UsageError
from editkit.safe_text import one_line


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    add_files(parser)
    add_flag(
        parser,
        "--save",
        also=("--out", "-o"),
        dest="out",
        required=True,
        help="file of the new patch",
    )
    add_model_flags(
        parser,
        purpose="their model, to measure the checks of the new patch (default: no checks)",
    )
    add_flag(parser, "--force", action="store_true", help="combine them although they conflict")
    add_examples(
        parser, "editkit patch stack kenya.safetensors mali.safetensors --save both.safetensors"
    )


def run(args: argparse.Namespace) -> int:
    """Write the patch."""
    if args.out.exists():
        raise UsageError(
            f"--out: {str(args.out)!r} exists.", hint="Choose another name, or remove it first."
        )
    from editkit.patches.combining import stacked
    from editkit.patches.files import write_patch
    from editkit.patches.interference import overlaps

    patches = read_patches(args.files)
    names = names_of(args.files)
    model = None if args.model is None else model_of(args, patches)
    if model is not None:
        refuse_other_models(model, patches)
    patch = stacked(patches, force=args.force, model=model, names=names)
    write_patch(patch, args.out)
    checks = f"with {len(patch.checks)} checks" if patch.checks else "without checks"
    if model is None and any(each.checks for each in patches):
        checks += ": those of the parts hold for each part alone (--model measures them again)"
    n = len(patch.requests)
    facts = f"{n} fact{'' if n == 1 else 's'}"
    sys.stdout.write(
        one_line(f"{args.out}: {facts}, norm {patch.delta.norm():.4g}, {checks}") + "\n"
    )
    sys.stdout.write(overlaps_text(names, overlaps(patches)))
    return 0
