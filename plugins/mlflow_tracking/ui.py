"""Open the results in MLflow's web interface, at the ranked table. Ctrl-C stops it."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from editkit import TrackingError, UsageError
from editkit.cli.arguments import add_alternative, add_examples, add_flag
from editkit_plugins.mlflow_tracking import view
from editkit_plugins.mlflow_tracking.database import (
    artifact_folder,
    child_environment,
    database_file,
    printable_uri,
    tracking_uri,
)

_START_SECONDS = 90.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.2


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``editkit ui``."""
    add_flag(parser, "--out", group="", help="folder of results to open")
    add_alternative(parser, "--out", metavar="FOLDER")
    add_flag(
        parser,
        "--host",
        default="127.0.0.1",
        help="address to listen on; other addresses give other machines access",
    )
    add_flag(parser, "--port", default=5000)
    add_flag(
        parser, "--no-browser", action="store_true", help="print the addresses, open no browser"
    )
    add_examples(parser, "editkit ui -o results")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C.

    Raises:
        TrackingError: There is nothing to show, or the server does not start.
        UsageError: The port is in use.
    """
    uri = tracking_uri(args.out)
    database = database_file(uri)
    if database is not None and not database.exists():
        raise TrackingError(
            f"there is no MLflow database at {database}.",
            hint="Run `editkit run-benchmark` first, or `editkit export-mlflow` if only MLflow's "
            "copy of the results is missing; --out names the folder of the results.",
        )
    experiments = _experiments(uri)
    if database is None:  # a tracking server, which is already running
        _print_links(printable_uri(uri).rstrip("/"), experiments)
        return 0
    check_port(args.host, args.port)
    with contextlib.suppress(KeyboardInterrupt), _sigterm_exits():
        with serving(database, host=args.host, port=args.port) as server:
            links = _print_links(_address(args.host, args.port), experiments)
            if not args.no_browser and sys.stdout.isatty():
                _open(links[0])
            sys.stderr.write("Press Ctrl-C to stop.\n")
            code = server.wait()
        raise TrackingError(
            f"MLflow's server stopped unexpectedly with exit code {code}.",
            hint=f"Its log is {_log_file(database)}; run `editkit ui` again.",
        )
    return 0


def _experiments(uri: str) -> dict[str, str]:
    """Pages of the experiments with runs, by name: benchmarks before others, the latest first."""
    from editkit_plugins.mlflow_tracking.tracker import experiments_with_runs

    experiments = experiments_with_runs(uri)
    if not experiments:
        raise TrackingError(
            f"MLflow at {printable_uri(uri)} has no runs of editkit.",
            hint="Run `editkit run-benchmark`, or `editkit export-mlflow` for earlier results.",
        )
    return {name: view.first_page(*experiment) for name, experiment in experiments.items()}


def _print_links(url: str, experiments: dict[str, str]) -> list[str]:
    """Print the addresses of the experiments' pages, and return them."""
    links = {name: f"{url}{page}" for name, page in experiments.items()}
    for name, link in links.items():
        sys.stdout.write(f"{name}: {link}\n")
    sys.stdout.flush()
    return list(links.values())


def _open(link: str) -> None:
    """Open a page in a graphical browser, if there is one: a text browser would fill the terminal
    and cannot show MLflow."""
    with contextlib.suppress(webbrowser.Error):
        browser = webbrowser.get()
        if not isinstance(browser, webbrowser.GenericBrowser) or isinstance(
            browser, webbrowser.BackgroundBrowser
        ):
            browser.open(link)


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Raise :class:`SystemExit` on SIGTERM, so that the server is stopped as after Ctrl-C."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---------------------------------------------------------------- MLflow's server


def check_port(host: str, port: int) -> None:
    """Check that nothing else listens on a port.

    Raises:
        UsageError: The port is in use, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: a port with only lingering connections is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot listen on port {port} of {host!r}: {error}.",
            hint="Choose another port, such as --port 5001.",
        ) from error


@contextlib.contextmanager
def serving(database: Path, *, host: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run MLflow's server; it responds on entering, and is stopped on leaving.

    Args:
        database: MLflow's SQLite file.
        host: Address to listen on.
        port: A free port.

    Raises:
        TrackingError: The server stopped, or did not respond in time.
    """
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", f"sqlite:///{database}"]
    command += ["--registry-store-uri", f"sqlite:///{database}"]
    command += ["--default-artifact-root", artifact_folder(database).as_uri()]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level=warning"]
    log = _log_file(database)
    with log.open("wb") as output:
        # In a new session, Ctrl-C reaches only us, and we stop the server and its workers in order.
        server = subprocess.Popen(
            command,
            cwd=database.parent,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(server, _address(host, port), log)
        yield server
    finally:
        _stop(server)


def _log_file(database: Path) -> Path:
    return database.with_name("mlflow-server.log")


def _address(host: str, port: int) -> str:
    """The server's address for a browser on this machine."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://{reachable}:{port}"


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise TrackingError(
                f"MLflow's server stopped with exit code {server.returncode} before it responded.",
                hint=f"Its log is {log}; if the log blames the database, delete mlflow.db and run "
                "`editkit export-mlflow`.",
            )
        try:
            with opener.open(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_SECONDS)
    raise TrackingError(
        f"MLflow's server did not respond at {url} within {_START_SECONDS:.0f} seconds.",
        hint=f"Try again when the machine is less busy; the server's log is {log}.",
    )


def _stop(server: subprocess.Popen[bytes]) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_SECONDS)
            break
    with contextlib.suppress(ProcessLookupError):  # workers that are still running
        os.killpg(server.pid, signal.SIGKILL)
