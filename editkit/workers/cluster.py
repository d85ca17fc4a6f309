"""Connecting to a Ray cluster, or starting one on this machine; both quietly.

Ray's own lines (of crashed workers, authentication, usage statistics) stay off the terminal: what
matters is reported by our events, warnings and errors. ``--debug`` shows them.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from editkit.errors import ClusterError, UsageError, first_line
from editkit.workers.placement import Machine

__all__ = ["AUTO", "LOCAL", "Cluster", "check_installed", "connected", "own_node_is_gone"]

_log = logging.getLogger(__name__)

LOCAL = "local"
AUTO = "auto"
_INSTALL = "Install it: pip install 'editkit[ray]', or pip install -e '.[ray]' in a clone."
_CONNECT_S = 15.0
_PROBE_S = 2.0
_HEAD_GONE_S = 20.0
"""The head counts as gone if its port refuses connections for so long; Ray itself ends the process
after 60 s (``RAY_gcs_rpc_server_reconnect_timeout_s``)."""
_CHECK_S = 0.1
_CLOSING_S = 30.0


def check_installed() -> None:
    """Check that there is a package ``ray``, without importing it.

    Raises:
        ClusterError: It is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ClusterError(
            "--ray needs the package ray, which is not installed.",
            hint=_INSTALL,
        )


def _import_ray() -> Any:
    check_installed()
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ClusterError(
            f"Ray cannot be imported: {first_line(error)}.",
            hint=_INSTALL,
        ) from error


class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        ray: The package.
        is_own: Whether it was started here, and ends with the connection.
        node: Identity of this machine's node.
    """

    node: str

    def __init__(self, ray: Any, *, is_own: bool) -> None:
        self.ray = ray
        self.is_own = is_own
        context = ray.get_runtime_context()
        self.node = context.get_node_id()
        [own] = [node for node in ray.nodes() if node["NodeID"] == self.node]
        self._own = (own["NodeManagerAddress"], own["NodeManagerPort"])
        host, _, port = str(context.gcs_address).rpartition(":")
        self._head = (host.strip("[]"), int(port))
        self._answered = time.monotonic()
        self._checked = 0.0
        self._ended = threading.Event()
        self._prober = threading.Thread(target=self._probe, daemon=True, name="editkit-ray-head")
        self._prober.start()

    def machines(self) -> list[Machine]:
        """What the machines that are alive offer."""
        return [
            Machine(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
            for node in self.ray.nodes()
            if node["Alive"]
        ]

    @property
    def head_answers(self) -> bool:
        """Whether the head accepted the last connection."""
        return time.monotonic() - self._answered < 2 * _PROBE_S + 1

    def check(self) -> None:
        """Notice that the cluster is gone, before Ray ends this process without a word of ours.

        Raises:
            ClusterError: The node of this machine is gone, or the head has been silent too long.
        """
        now = time.monotonic()
        if now - self._checked > _CHECK_S:
            self._checked = now
            if not self.node_answers():
                raise own_node_is_gone()
        silent = time.monotonic() - self._answered
        if silent > _HEAD_GONE_S:
            raise ClusterError(
                f"the head of the cluster ({self._head[0]}:{self._head[1]}) is gone: it has not "
                f"answered for {silent:.0f} s.",
                hint="Restart the cluster, and run the same command again: it resumes.",
            )

    def node_answers(self) -> bool:
        """Whether the node of this machine, which holds our objects, accepts a connection."""
        try:
            with socket.create_connection(self._own, timeout=3):
                return True
        except ConnectionError:
            return False
        except OSError:  # busy: no proof that it is gone
            return True

    def close(self) -> None:
        """Stop watching the head."""
        self._ended.set()

    def _probe(self) -> None:
        while not self._ended.wait(_PROBE_S):
            with contextlib.suppress(OSError), socket.create_connection(self._head, timeout=3):
                self._answered = time.monotonic()


def own_node_is_gone() -> ClusterError:
    """The error for a driver that has lost its node."""
    return ClusterError(
        "the Ray node of this machine is gone, and all workers with it.",
        hint="Start the cluster again, and run the same command: it resumes.",
    )


@contextlib.contextmanager
def connected(address: str | None, *, cpus: int | None = None) -> Iterator[Cluster]:
    """Inside, this process is the driver of a cluster.

    A connection that the program has already made (``ray.init()``) is used and kept.

    Args:
        address: ``HOST:PORT``; ``auto`` for the cluster of ``RAY_ADDRESS``, or the one that
            ``ray start`` started on this machine; ``local`` for a new one on this machine, which
            ends with the block; None for ``auto`` if there is one, or else ``local``.
        cpus: Processors of a new cluster, if not all of the machine.

    Raises:
        ClusterError: Ray is not installed, or there is no such cluster.
        UsageError: The address is one of a Ray client.
    """
    if address is not None and address.startswith("ray://"):
        raise UsageError(
            f"{address!r} is the address of a Ray client, which cannot stream results.",
            hint="Run editkit on a machine of the cluster: --ray auto, or --ray HOST:6379.",
        )
    with contextlib.ExitStack() as entered:
        entered.enter_context(_environment_kept())
        ray = _import_ray()
        entered.enter_context(_quiet(ray))
        is_own = False
        if not ray.is_initialized():
            is_own = _initialize(ray, address, cpus)
            entered.callback(_shut_down, ray)
        cluster = Cluster(ray, is_own=is_own)
        entered.callback(cluster.close)
        yield cluster


def _initialize(ray: Any, address: str | None, cpus: int | None) -> bool:
    """Connect to a cluster, or start one; returns whether it was started."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    target, named_by = (address, "") if address not in (None, AUTO) else _known_address(ray)
    if target is None and address == AUTO:
        raise ClusterError(
            "there is no Ray cluster on this machine, and RAY_ADDRESS is not set.",
            hint="Start one with 'ray start --head', or use --ray local, which needs none.",
        )
    quietly: Mapping[str, Any] = {"configure_logging": False, "log_to_driver": False}
    try:
        with _signals_kept():
            if target in (None, LOCAL):
                ray.init(address=LOCAL, include_dashboard=False, num_cpus=cpus, **quietly)
            else:
                _check_listening(str(target))
                ray.init(address=target, **quietly)
    except Exception as error:  # Ray raises everything, and plain Exceptions too
        with contextlib.suppress(Exception):
            ray.shutdown()
        if target in (None, LOCAL):
            raise ClusterError(
                f"Ray cannot start on this machine: {first_line(error)}",
                hint="Its log is in the newest folder of Ray's temporary folder, under 'logs'.",
            ) from error
        raise ClusterError(
            f"cannot connect to the Ray cluster at {target}{named_by}: {first_line(error)}",
            hint="'ray status' on this machine shows the cluster that it belongs to; "
            "'ray start --head' starts one, and --ray local needs none.",
        ) from error
    return target in (None, LOCAL)


def _known_address(ray: Any) -> tuple[str | None, str]:
    """The address in ``RAY_ADDRESS``, or else of the cluster that ``ray start`` started here.

    Ray itself would also connect to the private cluster of any other program on this machine.

    Returns:
        The address, or None; and where it comes from, for messages.
    """
    named = os.environ.get("RAY_ADDRESS")
    if named:
        return named, " (RAY_ADDRESS)"
    services: Any = importlib.import_module("ray._private.services")
    started: str | None = services.find_bootstrap_address(None)
    if started is None:
        return None, ""
    try:
        _check_listening(started)
    except OSError:  # what a crash has left behind
        return None, ""
    return started, ""


def _check_listening(address: str) -> None:
    """Check that something answers there; Ray would end the process after a minute.

    Raises:
        OSError: Nothing does.
    """
    host, _, port = address.rstrip("/").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def _shut_down(ray: Any) -> None:
    """End the connection; with a dead head, do not wait for it forever."""
    ending = threading.Thread(target=ray.shutdown, daemon=True)
    ending.start()
    ending.join(_CLOSING_S)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Inside, Ray may set the handlers of signals; afterwards they are the earlier ones."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    terminated = False
    try:
        yield
    except SystemExit as error:  # Ray's handler of SIGTERM
        terminated = error.code == signal.SIGTERM
        if not terminated:
            raise
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    if terminated:
        signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt  # the handler did not


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Inside, Ray writes nothing to the terminal."""
    logger = logging.getLogger("ray")
    level = logger.level
    internals: Any = importlib.import_module("ray._private.worker")
    printing = getattr(internals, "print_worker_logs", None)  # writes to standard output
    logger.setLevel(logging.CRITICAL)
    if printing is not None:
        internals.print_worker_logs = _log_instead
    try:
        yield
    finally:
        logger.setLevel(level)
        if printing is not None:
            internals.print_worker_logs = printing


def _log_instead(data: Mapping[str, Any], *_: Any) -> None:
    for line in data.get("lines", ()):
        _log.debug("Ray: %s", line)
