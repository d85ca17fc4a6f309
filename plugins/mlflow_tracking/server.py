"""MLflow's own server as a child process: light, watched, and ended with us."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from editkit import TrackingError, UsageError
from editkit_plugins.mlflow_tracking.database import artifact_folder, child_environment

_START_SECONDS = 90.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.2


def check_port(host: str, port: int) -> None:
    """Refuse a port that something else listens on, before MLflow stumbles over it.

    Raises:
        UsageError: The port is taken, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: a port whose last connections only linger is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot listen on port {port} of {host!r}: {error}.",
            hint="Choose another one with --port, such as --port 5001.",
        ) from error


@contextlib.contextmanager
def serving(database: Path, *, host: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A running server that already answers; it is ended on leaving, however that happens.

    Args:
        database: MLflow's SQLite file.
        host: Address to listen on.
        port: A free port.

    Raises:
        TrackingError: The server ended or did not answer in time.
    """
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", f"sqlite:///{database}"]
    command += ["--registry-store-uri", f"sqlite:///{database}"]
    command += ["--default-artifact-root", artifact_folder(database).as_uri()]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level=warning"]
    log = log_file(database)
    with log.open("wb") as words:
        # A session of its own: Ctrl-C reaches only us, and we end the whole family in order.
        child = subprocess.Popen(
            command,
            cwd=database.parent,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_it_answers(child, address(host, port), log)
        yield child
    finally:
        _end(child)


def log_file(database: Path) -> Path:
    """Where the server's own words go."""
    return database.with_name("mlflow-server.log")


def address(host: str, port: int) -> str:
    """Where a browser on this machine finds the server."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://{reachable}:{port}"


def _wait_until_it_answers(child: subprocess.Popen[bytes], url: str, log: Path) -> None:
    # No proxy: this is a conversation with our own child.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise TrackingError(
                f"MLflow's server ended with exit code {child.returncode} before it answered.",
                hint=f"Its own words are in {log}; if they name the database, delete mlflow.db and "
                "run `editkit export-mlflow`.",
            )
        try:
            with opener.open(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_SECONDS)
    raise TrackingError(
        f"MLflow's server did not answer at {url} within {_START_SECONDS:.0f} seconds.",
        hint=f"Try again when the machine is less busy; its own words are in {log}.",
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_STOP_SECONDS)
            break
    with contextlib.suppress(ProcessLookupError):  # whatever the child left behind
        os.killpg(child.pid, signal.SIGKILL)
