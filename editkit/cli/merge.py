"""Join the results of shards into one output folder.

Rows that both have must say the same; where they do not, nothing of that shard is merged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from editkit.benchmark.locking import only_one
from editkit.benchmark.run import STORE_FILE
from editkit.benchmark.store import Store


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder that takes the rows")
    parser.add_argument(
        "shards", type=Path, nargs="+", metavar="SHARD_DIR", help="output folder of a shard"
    )


def run(args: argparse.Namespace) -> int:
    """Merge the shards in order."""
    sources = [Store(shard / STORE_FILE, read_only=True) for shard in args.shards]
    with only_one(args.out, (1, 1)), Store(args.out / STORE_FILE) as target:
        for shard, source in zip(args.shards, sources, strict=True):
            with source:
                new = target.merge(source)
            sys.stdout.write(f"{shard}: {new} new rows\n")
    sys.stdout.write(
        f"Results are in {args.out}. Run the benchmark with --out {args.out} to see the table.\n"
    )
    return 0
