"""Revert patches of a ledger, in whatever order they were applied.

The model folder then has the same bytes as if the patches had never been applied.
"""

from __future__ import annotations

import argparse

from editkit.cli.arguments import add_examples, add_flag, add_flags
from editkit.cli.patch_apply import print_changes
from editkit.cli.signals import terminable


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    parser.add_argument(
        "patches",
        nargs="+",
        metavar="PATCH",
        help="number of a patch, the beginning of its digest, or a patch file",
    )
    add_flag(parser, "--ledger", required=True)
    add_examples(parser, "editkit patch revert 2 --ledger patched")
    add_flags(parser, "--by")
    add_flag(
        parser,
        "--force",
        action="store_true",
        help="revert patches that others were made on top of; the log keeps the reason",
    )


def run(args: argparse.Namespace) -> int:
    """Revert the patches."""
    from editkit.patches.ledger import Ledger

    ledger = Ledger(args.ledger)
    with terminable():
        entries = ledger.revert(args.patches, by=args.by, force=args.force)
    print_changes("reverted", entries, ledger)
    return 0
