"""Apply patches to a model, in a ledger.

A ledger is a folder with copies of the patches, a log, and the patched model, which is the folder
DIR/model. The first patch needs --model and creates the ledger. The original model is only read.
If one patch is refused, none is applied.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.cli.arguments import add_examples, add_flag, add_flags, path
from editkit.cli.signals import terminable
from editkit.errors import EditkitError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from editkit.patches.ledger import Ledger
    from editkit.patches.ledger_state import LedgerEntry


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's arguments."""
    add_flag(parser, "files", type=path, nargs="*", metavar="FILE", complete="file", help="patches")
    add_flags(parser, "--ledger")
    add_flag(
        parser,
        "--model",
        help="for a new ledger: a registered name, a folder, a GGUF file, or a hub id; later only "
        "to give the new place of a model that was moved (default: the ledger's)",
    )
    add_flags(parser, "--by")
    add_flag(
        parser,
        "--force",
        action="store_true",
        help="apply patches of another model, patches that contradict others, patches twice, and "
        "patches without those that they were made on top of; the log keeps the reason",
    )
    add_flag(
        parser,
        "--rebuild",
        action="store_true",
        help="write the model folder again if something has damaged it",
    )
    add_examples(parser, "editkit patch apply kenya.safetensors --ledger patched -m atlas")


def run(args: argparse.Namespace) -> int:
    """Apply the patches."""
    _check(args)
    from editkit.patches.ledger import Ledger

    with terminable():
        if not Ledger.exists(args.ledger):
            _check_new(args)
            ledger = Ledger.create(
                args.ledger, args.model, args.files, by=args.by, force=args.force
            )
            print_changes("applied", ledger.applied, ledger)
            return 0
        ledger = Ledger(args.ledger, model=args.model)
        if args.rebuild:
            for problem in ledger.rebuild(by=args.by) or ["nothing was damaged"]:
                sys.stdout.write(f"rebuilt: {problem}\n")
        entries = ledger.apply(args.files, by=args.by, force=args.force) if args.files else ()
        print_changes("applied", entries, ledger)
    return 0


def print_changes(action: str, entries: Sequence[LedgerEntry], ledger: Ledger) -> None:
    """Print what was done to patches, and where the model is."""
    for entry in entries:
        editor, digest = entry.line.editor, entry.digest[:12]
        sys.stdout.write(f"{action} {entry.number}: {entry.fact} ({editor}, {digest})\n")
    n = len(ledger.applied)
    patches = "1 patch" if n == 1 else f"{n} patches" if n else "no patch"
    place = ledger.link if ledger.link.is_symlink() else ledger.model
    sys.stdout.write(f"The model with {patches} is in {place}.\n")


def _check(args: argparse.Namespace) -> None:
    """Refuse arguments that do not make an action.

    Raises:
        UsageError: The ledger or the patches are missing.
    """
    if args.ledger is None:
        raise UsageError(
            "--ledger DIR is missing: patches are applied to a copy of the model, in a ledger.",
            hint="Name a folder for it, which may be new. 'editkit patch export' writes a patched "
            "model without a ledger.",
        )
    if not args.files and not args.rebuild and args.model is None:
        raise UsageError("there is no patch to apply.", hint="Name at least one patch file.")


def _check_new(args: argparse.Namespace) -> None:
    """Refuse to create a ledger without a model or a patch.

    Raises:
        UsageError: One of them is missing.
    """
    if args.model is None:
        raise UsageError(
            f"{str(args.ledger)!r} is not a ledger yet, and --model is missing.",
            hint=f"Add --model {_model_of(args.files)}, or check the name of the folder.",
        )
    if not args.files:
        raise UsageError(
            f"{str(args.ledger)!r} is not a ledger, and there is no patch to create it with.",
            hint="Name at least one patch file.",
        )


def _model_of(files: Sequence[Path]) -> str:
    """The model that the patches were made on, for a hint."""
    from editkit.patches.files import read_patch

    try:
        names = {origin.model for file in files if (origin := read_patch(file).origin)}
    except EditkitError:
        return "M"
    return names.pop() if len(names) == 1 else "M"
