"""Join the results of shards into one output folder.

Rows that both have must agree: exactly where they were computed in one environment (processor,
threads, torch, device, ...), else within 1e-3. Where they do not, nothing of that shard is merged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from editkit.benchmark.locking import only_one
from editkit.benchmark.merging import Merged
from editkit.benchmark.store import Store
from editkit.results import STORE_FILE


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
                merged = target.merge(source)
            sys.stdout.write(f"{shard}: {len(merged.rows)} new rows{_compared(merged)}\n")
    sys.stdout.write(
        f"Results are in {args.out}. Run the benchmark with --out {args.out} to see the table.\n"
    )
    return 0


def _compared(merged: Merged) -> str:
    """What there is to say of rows that both stores have."""
    if not merged.compared:
        return ""
    said = f", {merged.compared} that were there already"
    if largest := merged.largest:
        said += (
            f"; {merged.elsewhere} of them were computed in another environment "
            f"({merged.environments}), with a largest difference of {largest.size:.1e} "
            f"(case {largest.case_id}, {largest.what})"
        )
    return said
