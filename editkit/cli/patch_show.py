"""Show what patches are: fact, editor, settings, weights, model, versions, checks.

Loads no model. Several files: also how far each two of them overlap, and their conflicts.
"""

from __future__ import annotations

import argparse
import json
import sys

from editkit.cli.arguments import add_examples, add_flag
from editkit.cli.patch_files import (
    add_files,
    conflicts_data,
    conflicts_text,
    names_of,
    overlaps_text,
    pair_table,
    read_patches,
)
from editkit.storage.digests import plain


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    add_files(parser)
    add_flag(
        parser,
        "--all",
        action="store_true",
        help="all settings, not only those that somebody chose, and the editor's notes",
    )
    add_flag(parser, "--json")
    add_examples(parser, "editkit patch show kenya.safetensors mali.safetensors")


def run(args: argparse.Namespace) -> int:
    """Show the patches."""
    from editkit.cli.patch_pages import patch_data, patch_page
    from editkit.patches.interference import overlaps

    patches = read_patches(args.files)
    names = names_of(args.files)
    table = overlaps(patches) if len(patches) > 1 else []
    if args.json:
        document = {
            "schema": 1,
            "patches": [
                patch_data(file, patch) for file, patch in zip(args.files, patches, strict=True)
            ],
            "overlaps": table,
            "conflicts": conflicts_data(names, patches),
        }
        sys.stdout.write(json.dumps(plain(document), indent=2) + "\n")
        return 0
    parts = [
        patch_page(file, patch, everything=args.all)
        for file, patch in zip(args.files, patches, strict=True)
    ]
    if table:
        parts.append(
            "Overlap, from 0 to 1 ('editkit explain patches' describes what it predicts):\n\n"
            f"{pair_table(names, table)}\n{overlaps_text(names, table)}"
            f"{conflicts_text(names, patches)}"
        )
    sys.stdout.write("\n".join(parts))
    return 0
