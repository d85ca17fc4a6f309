"""Write all results of a store to MLflow again; runs that are up to date stay unchanged."""

from __future__ import annotations

import argparse
import sys

from editkit.benchmark.store import runs_in
from editkit.cli.arguments import add_alternative, add_examples, add_flag


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``editkit export-mlflow``."""
    add_flag(parser, "--out", group="", help="folder of results to log")
    add_alternative(parser, "--out", metavar="FOLDER")
    add_examples(parser, "editkit export-mlflow -o results")


def run(args: argparse.Namespace) -> int:
    """Log every complete cell of the store.

    Raises:
        StoreError: There is no store in the folder.
        TrackingError: MLflow cannot be reached, or refuses a request.
    """
    from editkit_plugins.mlflow_tracking.cells import log_cells
    from editkit_plugins.mlflow_tracking.database import printable_uri

    for stored in runs_in(args.out):
        tracker, run_ids = log_cells(stored, stored.cells, rewrite=True)
        skipped = len(stored.cells) - len(run_ids)
        note = f", {skipped} unfinished skipped" if skipped else ""
        uri = printable_uri(tracker.uri)
        sys.stderr.write(f"{stored.benchmark}: {len(run_ids)} runs in {uri}{note}\n")
    return 0
