"""The part of a pool that runs on the workers of a Ray cluster.

Ray receives this module by value: a machine without editkit can run it, and report what is missing.
It imports nothing but the standard library, and its own package when a bench is built.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from editkit.workers.inventory import inventory_here, packages_of_plugins

__all__ = ["Worker"]


class Worker:
    """A process with a bench.

    What its methods return or yield are pairs of a kind and its content: ``("answer", answer)``,
    ``("built", about)``, ``("logged", ...)`` or ``("raised", ...)``.

    Args:
        environment: Variables of the driver to set, if this machine does not set them itself.
        imposed: Variables of the driver that replace those of this machine; None removes one.
        paths: Where the driver imports from; those that exist here are searched last.
        threads: Number of torch's threads.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        imposed: Mapping[str, str | None],
        paths: Sequence[str],
        threads: int,
    ) -> None:
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        for name, wanted in imposed.items():
            if wanted is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = wanted
        sys.path += [path for path in paths if path not in sys.path and Path(path).is_dir()]
        self._threads = threads
        self._log = _Collected()
        self._bench: Any = None

    def inventory(self, libraries: Sequence[str], distributions: Sequence[str]) -> dict[str, Any]:
        """What this machine has: :func:`editkit.workers.inventory.inventory_here`, and ``node``."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        return {**inventory_here(libraries, distributions), "node": node}

    def build(self, boxed_recipe: Sequence[Any], keeper: Any, level: int) -> list[tuple[str, Any]]:
        """Build the bench.

        Args:
            boxed_recipe: Ray's reference to the recipe, in a list: it is unpickled here, where
                errors can be reported.
            keeper: Handle of the run's :class:`editkit.workers.shared_cache.CacheKeeper`; None
                on a single machine.
            level: Level of the log messages that are forwarded to the driver.
        """
        try:
            import ray
            import torch

            torch.set_num_threads(self._threads)
            self._log.start(level)
            if keeper is not None:
                from editkit.workers.shared_cache import join_caches

                join_caches(keeper, f"{socket.gethostname()}:{os.getpid()}")
            recipe = ray.get(boxed_recipe[0])
            self._bench = recipe.build()
            about = dict(self._bench.about())
        except BaseException as error:
            return [*self._log.taken(), ("raised", _described(error))]
        return [*self._log.taken(), ("built", about)]

    def work(self, packed_job: bytes) -> Iterator[tuple[str, Any]]:
        """Do a job.

        Args:
            packed_job: The job as Ray serializes it. It is unpacked here, where errors can be
                reported, and does not pass through the driver's object store.
        """
        try:
            from ray import cloudpickle

            for answer in self._bench.do(cloudpickle.loads(packed_job)):
                for message in self._log.taken():  # Ray sends values, which `yield from` refuses
                    yield message
                yield "answer", answer
        except GeneratorExit:
            raise
        except BaseException as error:
            failure = [("raised", _described(error))]
        else:
            failure = []
        for message in [*self._log.taken(), *failure]:
            yield message


class _Collected(logging.Handler):
    """Log messages on their way to the driver."""

    def __init__(self) -> None:
        super().__init__()
        self._messages: list[tuple[str, Any]] = []

    def start(self, level: int) -> None:
        self.setLevel(level)
        logging.captureWarnings(True)
        root = logging.getLogger()
        root.addHandler(self)
        for name in ("editkit", *packages_of_plugins()):
            logging.getLogger(name).setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # a wrong format must not end the job
            entry = {"name": record.name, "level": record.levelno, "text": record.getMessage()}
            self._messages.append(("logged", entry))

    def taken(self) -> list[tuple[str, Any]]:
        """The messages since the last call."""
        taken, self._messages = self._messages, []
        return taken


def _described(error: BaseException) -> dict[str, Any]:
    """An error as plain data: classes of plugins may not survive being pickled."""
    kind = type(error)
    message = getattr(error, "message", None)
    return {
        "classes": [(each.__module__, each.__qualname__) for each in kind.__mro__],
        "message": message if isinstance(message, str) else str(error),
        "hint": getattr(error, "hint", None),
        "traceback": "".join(traceback.format_exception(error)),
    }
