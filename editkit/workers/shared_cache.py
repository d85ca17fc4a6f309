"""A missing entry of the cache is computed by one machine of a cluster, and copied to the others.

Every worker asks the one :class:`CacheKeeper` of the run for the right to compute an entry. It then
asks the :class:`CacheReader` of each other machine for the file, and computes it only if none has
it. On one machine, the lock of the file in :mod:`editkit.storage.cache` lets through one worker, so
nothing is copied there.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from editkit.storage.cache import ask_other_caches, cache_folder
from editkit.workers.inventory import memory_kills

__all__ = ["CacheKeeper", "CacheReader", "join_caches"]

_log = logging.getLogger(__name__)

_ANSWER_S = 60.0
"""How long to wait for the machines when looking for a file."""
_COPY_S = 3600.0


class CacheReader:
    """Reads files of one machine's cache.

    Args:
        environment: Variables of the driver to set, if this machine does not set them itself.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        for name, value in environment.items():
            os.environ.setdefault(name, value)

    def has(self, entry: str) -> bool:
        """Whether the file is there."""
        return (cache_folder() / entry).is_file()

    def read(self, entry: str) -> bytes | None:
        """The file's content; None if it is missing or unreadable."""
        try:
            return (cache_folder() / entry).read_bytes()
        except OSError:
            return None

    def memory_kills(self) -> int:
        """How many processes the system of this machine killed for their memory."""
        return memory_kills()


class CacheKeeper:
    """Decides which worker computes an entry; the others wait. One per run."""

    def __init__(self) -> None:
        self._holders: dict[str, str] = {}
        self._lost: set[str] = set()
        self._readers: dict[str, Any] = {}
        self._changed = asyncio.Condition()

    async def add_reader(self, node: str, reader: list[Any]) -> None:
        """Add a machine: the identity of its node, and the handle of its reader in a list."""
        [self._readers[node]] = reader

    async def acquire(self, entry: str, worker: str, node: str) -> list[Any]:
        """Wait until no other worker holds the entry; returns the other machines' readers."""

        def free() -> bool:
            return entry not in self._holders or worker in self._lost

        async with self._changed:
            await self._changed.wait_for(free)
            if worker not in self._lost:
                self._holders[entry] = worker
        return [reader for each, reader in self._readers.items() if each != node]

    async def release(self, entry: str, worker: str) -> None:
        """A worker has the entry now, or gives up."""
        async with self._changed:
            if self._holders.get(entry) == worker:
                del self._holders[entry]
            self._changed.notify_all()

    async def forget(self, worker: str) -> None:
        """A worker has died: release what it held, and never let it in again."""
        async with self._changed:
            self._lost.add(worker)
            for entry in [each for each, holder in self._holders.items() if holder == worker]:
                del self._holders[entry]
            self._changed.notify_all()


def join_caches(keeper: Any, worker: str) -> None:
    """Let this process take part.

    Args:
        keeper: Handle of the run's :class:`CacheKeeper`.
        worker: Name of this worker.
    """
    ask_other_caches(_CachesOfCluster(keeper, worker))


class _CachesOfCluster:
    """:class:`editkit.storage.cache.OtherCaches` on a cluster."""

    def __init__(self, keeper: Any, worker: str) -> None:
        self._ray: Any = importlib.import_module("ray")
        self._keeper = keeper
        self._worker = worker
        self._node = self._ray.get_runtime_context().get_node_id()

    @contextlib.contextmanager
    def alone(self, entry: str) -> Iterator[bytes | None]:
        try:
            acquired = self._keeper.acquire.remote(entry, self._worker, self._node)
            readers = self._ray.get(acquired)
        except self._ray.exceptions.RayError as error:  # compute it twice, rather than fail
            _log.warning("no other machine can be asked for %s: %s", entry, error)
            yield None
            return
        try:
            yield self._copy(entry, readers)
        finally:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.get(self._keeper.release.remote(entry, self._worker))

    def _copy(self, entry: str, readers: list[Any]) -> bytes | None:
        """The file of the first machine that has it."""
        asked = {reader.has.remote(entry): reader for reader in readers}
        if not asked:
            return None
        answered, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S)
        for answer in answered:
            with contextlib.suppress(self._ray.exceptions.RayError):
                if self._ray.get(answer):
                    content = self._ray.get(asked[answer].read.remote(entry), timeout=_COPY_S)
                    if content is not None:
                        return bytes(content)
        return None
