"""Write everything that a result store holds to MLflow again; doing it twice changes nothing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from editkit.benchmark.store import runs_in


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("editkit-results"),
        metavar="DIR",
        help="output folder of the benchmark runs (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Replay the store; running it twice changes nothing.

    Raises:
        StoreError: There is no store in the folder.
        TrackingError: MLflow cannot be reached or refuses.
    """
    from editkit_plugins.mlflow_tracking.database import shown
    from editkit_plugins.mlflow_tracking.observer import publish

    for found in runs_in(args.out):
        tracker, run_ids = publish(found, found.cells, anew=True)
        left_out = len(found.cells) - len(run_ids)
        note = f", {left_out} unfinished left out" if left_out else ""
        sys.stderr.write(f"{found.benchmark}: {len(run_ids)} runs in {shown(tracker.uri)}{note}\n")
    return 0
