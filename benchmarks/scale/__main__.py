"""Measure the driver of a run against simulated workers, and what large stores cost."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from editkit.cli.arguments import at_least, cluster, positive, up_to

_MOST_RECORDS = 10_000_000  # they are in memory
_MOST_EDITORS = 10  # of the benchmark
_USES = ("resume", "table", "report", "merge")
_COMMANDS = {
    "driver": "run a plan on simulated workers: how many rows the driver takes in a second",
    "ray": "run a plan on Ray actors without a model: what Ray and the driver take per unit",
    "store": "fill a store, and measure each use of it in a process of its own",
}
_STEP = f"""\
Measure one use of a store that `store --out OUT` has filled, in this process: {", ".join(_USES)}.
`store` runs this command once for each of them.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m editkit_benchmarks.scale", description=__doc__)
    top.add_argument("--json", action="store_true", help="print one JSON document")
    commands = top.add_subparsers(dest="command", required=True, metavar="driver|ray|store")
    for name, summary in _COMMANDS.items():
        own = commands.add_parser(name, help=summary, description=summary)
        _add_plan(own)
        own.add_argument("--out", type=Path, help="folder to keep (default: a temporary one)")
        if name == "ray":
            own.add_argument("--workers", type=positive, default=2, help="actors (2)")
            own.add_argument(
                "--address", type=cluster, default="local", help="of the Ray cluster (local)"
            )
        elif name == "driver":
            own.add_argument("--workers", type=positive, default=1000, help="workers (1000)")
            own.add_argument(
                "--seconds", type=at_least(0), default=0.0, help="per record; 0: at once (0)"
            )
        else:
            own.add_argument("--shards", type=positive, default=100, help="stores to merge (100)")
    step = commands.add_parser("step", description=_STEP)
    step.add_argument("name", choices=_USES, help="the use")
    _add_plan(step)
    step.add_argument("--out", type=Path, required=True, help="folder of the store")
    step.add_argument("--shards", type=positive, default=100, help="stores to merge (100)")
    return top


def _add_plan(own: argparse.ArgumentParser) -> None:
    own.add_argument("--records", type=up_to(_MOST_RECORDS), default=20_000, help="records (20000)")
    own.add_argument("--editors", type=up_to(_MOST_EDITORS), default=10, help="editors (10)")
    own.add_argument("--generation", action="store_true", help="rows with ten texts each")


def _lines(result: dict[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in result.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _lines(value, f"{indent}  ")
        else:
            number = f"{value:,.2f}" if isinstance(value, float) else value
            yield f"{indent}{key}: {number}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one measurement and print it."""
    args = parser().parse_args(arguments)
    from editkit_benchmarks.scale import measurements

    work = getattr(measurements, args.command)
    result = work(args)
    as_json = args.json or args.command == "step"
    text = json.dumps(result) if as_json else "\n".join(_lines(result))
    sys.stdout.write(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
