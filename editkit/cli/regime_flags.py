"""The flags that choose how facts reach models."""

from __future__ import annotations

import argparse

from editkit.cli.arguments import add_flag, positive, whole
from editkit.errors import UsageError
from editkit.regimes import Regime

__all__ = ["add_regime_flags", "regimes_of"]


def add_regime_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--joint``, ``--sequential``, ``--step`` and ``--checkpoints``."""
    add_flag(
        parser,
        "--joint",
        type=positive,
        several=True,
        metavar="N,...",
        help="write N facts into each model at once; several numbers are several runs "
        "(default: 1 fact)",
    )
    add_flag(
        parser,
        "--sequential",
        type=positive,
        several=True,
        metavar="N,...",
        help="write N facts into each model, one step after the other; several numbers are "
        "several runs (default: 1 fact)",
    )
    add_flag(
        parser,
        "--step",
        type=positive,
        metavar="K",
        help="facts per step of --sequential (default: 1)",
    )
    add_flag(
        parser,
        "--checkpoints",
        type=whole,
        several=True,
        default=None,
        metavar="N,...",
        help="score a sequence after these numbers of facts (default: the powers of ten, and its "
        "end)",
    )


def regimes_of(args: argparse.Namespace) -> tuple[Regime, ...]:
    """The regimes that the flags ask for; empty without them.

    Raises:
        UsageError: The flags contradict each other.
    """
    if not args.sequential:
        for flag in ("step", "checkpoints"):
            if getattr(args, flag) is not None:
                raise UsageError(
                    f"--{flag} is for sequences, and there is no --sequential.",
                    hint="Add --sequential N, the length of a sequence.",
                )
    try:
        joint = [Regime.joint(n) for n in args.joint]
        sequential = [
            Regime.sequential(n, step=args.step or 1, checkpoints=args.checkpoints)
            for n in args.sequential
        ]
    except ValueError as error:
        raise UsageError(f"{error}.", hint="'editkit explain regimes' lists them.") from None
    return (*joint, *sequential)
