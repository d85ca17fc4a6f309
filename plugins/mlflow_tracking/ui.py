"""Open the results in MLflow's web interface, at the comparison of the runs. Ctrl-C ends it."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from editkit import TrackingError
from editkit_plugins.mlflow_tracking import view
from editkit_plugins.mlflow_tracking.database import database_file, shown, tracking_uri
from editkit_plugins.mlflow_tracking.server import address, check_port, log_file, serving


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("editkit-results"),
        metavar="DIR",
        help="output folder of the benchmark runs (default: %(default)s)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; anything but the default lets others in (default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=5000, help="port to listen on (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C.

    Raises:
        TrackingError: There is nothing to show, or the server does not start.
        UsageError: The port is taken.
    """
    uri = tracking_uri(args.out)
    database = database_file(uri)
    if database is not None and not database.exists():
        raise TrackingError(
            f"there is no MLflow database at {database}.",
            hint="Run `editkit run-benchmark` first, or `editkit export-mlflow` if the results are "
            "there and only MLflow's copy is missing; name their folder with --out.",
        )
    experiments = _experiments(uri)
    if database is None:  # somebody else's server: it is running already
        _tell(shown(uri).rstrip("/"), experiments)
        return 0
    check_port(args.host, args.port)
    with contextlib.suppress(KeyboardInterrupt), _sigterm_ends_us():
        with serving(database, host=args.host, port=args.port) as child:
            _tell(address(args.host, args.port), experiments)
            sys.stderr.write("Ctrl-C ends it.\n")
            code = child.wait()
        raise TrackingError(
            f"MLflow's server ended by itself with exit code {code}.",
            hint=f"Its own words are in {log_file(database)}; start `editkit ui` again.",
        )
    return 0


def _experiments(uri: str) -> dict[str, str]:
    """Pages by name of the experiments with runs of ours, the latest first."""
    from editkit_plugins.mlflow_tracking.tracker import experiments_with_runs

    found = experiments_with_runs(uri)
    if not found:
        raise TrackingError(
            f"MLflow at {shown(uri)} holds no runs of editkit.",
            hint="Run `editkit run-benchmark`, or `editkit export-mlflow` for earlier results.",
        )
    return {name: view.address(*experiment) for name, experiment in found.items()}


def _tell(url: str, experiments: dict[str, str]) -> None:
    for name, page in experiments.items():
        sys.stdout.write(f"{name}: {url}{page}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def _sigterm_ends_us() -> Iterator[None]:
    """Inside, SIGTERM unwinds the stack as Ctrl-C does, so that the child is ended too."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
