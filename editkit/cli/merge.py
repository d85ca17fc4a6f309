"""Merge the results of shards into one output folder.

Rows that both folders have must agree: exactly if they were computed in the same environment
(processor, threads, torch, device, ...), within 1e-3 otherwise. If they disagree, nothing of that
shard is merged.
"""

from __future__ import annotations

import argparse
import sys

from editkit.benchmark.merge import Merged, merge
from editkit.benchmark.output_lock import exclusive
from editkit.benchmark.store import Store
from editkit.cli.arguments import add_examples, add_flag, path
from editkit.errors import UsageError
from editkit.results import STORE_FILE


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flag(
        parser,
        "shards",
        type=path,
        nargs="+",
        metavar="SHARD",
        complete="folder",
        help="folder of results of a shard",
    )
    add_flag(
        parser, "--out", default=None, help="folder to merge into", shown_default="the first SHARD"
    )
    add_examples(parser, "editkit merge part1 part2 part3 -o all")


def run(args: argparse.Namespace) -> int:
    """Merge the shards in order."""
    if args.out is None:
        args.out, *args.shards = args.shards
    if not args.shards:
        raise UsageError(
            f"there is nothing to merge into {args.out}.",
            hint="For example: editkit merge part1 part2 -o all",
        )
    for shard in args.shards:  # before anything is merged
        Store(shard / STORE_FILE, read_only=True).close()
    with exclusive(args.out, (1, 1)), Store(args.out / STORE_FILE) as target:
        for shard in args.shards:
            with Store(shard / STORE_FILE, read_only=True) as source:
                merged = merge(target, source)
            sys.stdout.write(f"{shard}: {len(merged.rows)} new rows{_rest(merged)}\n")
            sys.stdout.flush()
    sys.stdout.write(
        f"Results are in {args.out}. Run the benchmark with --out {args.out} to print the table.\n"
    )
    return 0


def _rest(merged: Merged) -> str:
    """What else was added, and how far rows that existed already differ."""
    more = merged.added - len(merged.rows)
    text = f", {more} of earlier checkpoints and of models" if more else ""
    if not merged.compared:
        return text
    text += f", {merged.compared} that already existed"
    if largest := merged.largest:
        text += (
            f"; {merged.elsewhere} of them were computed in another environment "
            f"({merged.environments}), with a largest difference of {largest.size:.1e} "
            f"({largest.where}, {largest.what})"
        )
    return text
