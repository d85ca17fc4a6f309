"""A pool of workers on a Ray cluster.

Each worker is an actor with processors, GPUs and a bench of its own. Jobs are handed out in order,
one at a time; while many wait, a worker gets the next one before it has finished, so that it never
waits for the driver. Answers stream back one by one, and a worker that is far ahead of the driver
pauses. The driver learns of a lost worker from Ray, and starts another one in its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib
import logging
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic

from editkit.errors import ClusterError, EditkitError, first_line
from editkit.workers import inventory, worker
from editkit.workers.cluster import AUTO, LOCAL, Cluster, connected, own_node_is_gone
from editkit.workers.inventory import check_inventories, inventory_here, memory_kills
from editkit.workers.placement import Placement, lacking, place, within
from editkit.workers.pool import Answered, AnswerT, Crew, Done, Event, JobT, Lost, Recipe
from editkit.workers.shared_cache import CacheKeeper, CacheReader

__all__ = ["RayPool", "WorkerError"]

_log = logging.getLogger(__name__)

_AHEAD = 2
"""Jobs that a worker holds while many wait."""
_UNREAD = 8
"""Answers that a worker may be ahead of the driver."""
_POLL_S = 1.0
_KILLS_S = 5.0
_STRAGGLERS_S = 60.0
"""How long to wait for the last workers to start, once the first one has."""
_PATIENCE_S = 180.0
"""How long there may be no worker at all."""
_MOST_WAITING = 100_000
"""Workers that may wait for an entry of the cache at the same time."""
_FAILED_STARTS = 3
"""Workers that may die while they load, one after the other, before no more are started."""

_GIVEN = ("EDITKIT_CACHE", "EDITKIT_SMOLLM2", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
_IMPOSED = (
    *("EDITKIT_PLUGINS", "EDITKIT_DISABLE_PLUGINS", "EDITKIT_STRICT_PLUGINS"),
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY"),
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "DNNL_MAX_CPU_ISA"),
    *("TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"),
)


class WorkerError(RuntimeError):
    """A worker raised an unexpected error; its traceback there is the cause."""


class _TracebackThere(Exception):
    """The traceback of an error in another process."""


class RayPool:
    """A pool on a Ray cluster, or on one that is started here for the time of the block.

    Args:
        address: ``HOST:PORT``, ``auto`` or ``local``: :func:`editkit.workers.cluster.connected`.
        workers: Number of workers; by default one per share of GPUs, or else per processor. A
            cluster that is started here has no more than it has room for.
        gpus_per_worker: GPUs of each worker; 0.5 puts two on one GPU, 0 uses none.
        patience: Seconds without any worker after which the run ends.
    """

    is_local = False

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        gpus_per_worker: float = 0.0,
        patience: float = _PATIENCE_S,
    ) -> None:
        self.address = address
        self.workers = workers
        self.gpus_per_worker = gpus_per_worker
        self.patience = patience

    @property
    def place(self) -> str:
        """Where the cluster is, as far as it is known before there is a connection."""
        if self.address == LOCAL:
            return "this machine"
        named = self.address not in (None, AUTO)
        return f"the Ray cluster at {self.address}" if named else "a Ray cluster"

    @contextlib.contextmanager
    def opened(
        self,
        recipe: Recipe[JobT, AnswerT],
        *,
        distributions: Sequence[str] = (),
        jobs: int | None = None,
    ) -> Iterator[Crew[JobT, AnswerT]]:
        """Start the workers, compare what they have installed, and build their benches.

        Returns as soon as the first bench is built; the others join when theirs are.
        """
        with self._connected() as cluster:
            placement = self._placement_on(cluster, jobs)
            crew: _RayCrew[JobT, AnswerT] = _RayCrew(cluster, placement, self.patience)
            try:
                crew.start(recipe, distributions)
                yield crew
            finally:
                crew.close()

    def placement(self, jobs: int | None = None) -> Placement:
        """How the machines of the cluster would be shared among workers now.

        Args:
            jobs: As for :meth:`opened`.

        Raises:
            ClusterError: There is no such cluster, or it has no room for any worker.
        """
        with self._connected() as cluster:
            return self._placement_on(cluster, jobs)

    def _placement_on(self, cluster: Cluster, jobs: int | None) -> Placement:
        machines = cluster.machines()
        placement = place(machines, self.workers, self.gpus_per_worker).at_most(jobs)
        if cluster.is_own:
            return within(machines, placement, self.workers)
        if placement.at_once == 0:
            without = lacking(machines, placement)
            if not self.workers:
                raise without
            _log.warning("%s Waiting %.0f s for one to join.", without.message, self.patience)
        return placement

    def _connected(self) -> contextlib.AbstractContextManager[Cluster]:
        allowed = len(os.sched_getaffinity(0))  # Ray counts processors that we may not use
        return connected(self.address, cpus=allowed if allowed < (os.cpu_count() or 1) else None)


class _Stage(enum.Enum):
    STARTING = "starting"
    """Waits for a place on the cluster, or for its process."""
    BUILDING = "building"
    READY = "ready"


@dataclasses.dataclass
class _Assigned(Generic[JobT]):
    """A job that a worker has."""

    number: int
    job: JobT
    stream: Any


@dataclasses.dataclass(eq=False)
class _Member(Generic[JobT]):
    """A worker, as the driver sees it."""

    actor: Any
    pending: Any = None
    """Reference to the answer that it owes before its first job."""
    stage: _Stage = _Stage.STARTING
    name: str = ""
    machine: str = "an unknown machine"
    inventory: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    jobs: deque[_Assigned[JobT]] = dataclasses.field(default_factory=deque)

    @property
    def called(self) -> str:
        """Its name in messages."""
        return f"worker {self.name}" if self.name else "a new worker"

    @property
    def awaited(self) -> Any:
        """What the driver waits for: an object, or the stream of the current job; or None."""
        if self.pending is not None:
            return self.pending
        return self.jobs[0].stream if self.jobs else None


class _RayCrew(Generic[JobT, AnswerT]):
    """The workers of a :class:`RayPool`."""

    def __init__(self, cluster: Cluster, placement: Placement, patience: float) -> None:
        self._cluster = cluster
        self._ray = cluster.ray
        self._placement = placement
        self._patience = patience
        self._members: list[_Member[JobT]] = []
        self._waiting: deque[tuple[int, JobT]] = deque()
        self._submitted = 0
        self._abouts: dict[str, Mapping[str, Any]] = {}
        self._compared = False
        self._failed_starts = 0
        self._why_failed = ""
        self._alive_at = time.monotonic()
        self._shown: set[tuple[str, str]] = set()
        self._serializer = importlib.import_module("ray.cloudpickle")
        for module in (inventory, worker):
            self._serializer.register_pickle_by_value(module)
        self._strategies = importlib.import_module("ray.util.scheduling_strategies")
        self._given = {name: os.environ[name] for name in _GIVEN if name in os.environ}
        self._keeper: Any = None
        """Decides who computes a missing entry of the cache; None on a single machine."""
        self._kills: dict[str, int] = {}
        """How many processes each node's system has killed for their memory."""
        self._readers: dict[str, Any] = {}
        """Reads the cache of a machine, by node."""
        self._actor_class = self._ray.remote(worker.Worker)

    # ------------------------------------------------------------ the crew's interface

    @property
    def workers(self) -> int:
        return self._placement.workers

    @property
    def about(self) -> Mapping[str, Any]:
        return next(iter(self._abouts.values()))

    def about_worker(self, worker: str) -> Mapping[str, Any]:
        return self._abouts[worker]

    def submit(self, job: JobT) -> int:
        self._waiting.append((self._submitted, job))
        self._submitted += 1
        return self._submitted - 1

    def events(self) -> Iterator[Event[AnswerT]]:
        while self._waiting or any(member.jobs for member in self._members):
            self._hand_out()
            yield from self._happened()

    # ------------------------------------------------------------ starting and ending

    def start(self, recipe: Recipe[JobT, AnswerT], distributions: Sequence[str]) -> None:
        """Start the workers; return when one is ready."""
        self._recipe = self._ray.put(recipe)
        self._distributions = tuple(distributions)
        self._own = inventory_here(inventory.LIBRARIES, distributions, with_devices=False)
        if not self._cluster.is_own:
            on_node = self._strategies.NodeAffinitySchedulingStrategy(
                self._cluster.node, soft=False
            )
            keeper = self._ray.remote(CacheKeeper).options(
                num_cpus=0, scheduling_strategy=on_node, max_concurrency=_MOST_WAITING
            )
            self._keeper = keeper.remote()
        self._fill()
        self._compare_first()
        while not self._abouts:
            for event in self._happened():
                raise AssertionError(f"{event} before the first job")

    def close(self) -> None:
        """End all workers."""
        if self._cluster.node_answers():
            actors = [member.actor for member in self._members]
            for actor in filter(None, [*actors, *self._readers.values(), self._keeper]):
                with contextlib.suppress(Exception):
                    self._ray.kill(actor)
        self._members.clear()

    def _fill(self) -> None:
        """Start workers until there are as many as wanted."""
        if self._failed_starts >= _FAILED_STARTS + self._placement.workers:
            return
        while len(self._members) < self._placement.workers and self._cluster.head_answers:
            actor = self._actor_class.options(
                num_cpus=self._placement.cpus,
                num_gpus=self._placement.gpus,
                max_restarts=0,
                scheduling_strategy="SPREAD",
            ).remote(
                self._given,
                {name: os.environ.get(name) for name in _IMPOSED},
                [str(Path(path).absolute()) for path in sys.path],
                self._placement.cpus,
            )
            pending = actor.inventory.remote(inventory.LIBRARIES, self._distributions)
            self._members.append(_Member(actor, pending))

    def _compare_first(self) -> None:
        """Wait for the workers that fit at once, compare what they have, and let them build."""
        first: float | None = None
        while True:
            reported = [member for member in self._members if member.inventory]
            now = time.monotonic()
            if reported and first is None:
                first = now
            if len(reported) >= max(1, self._placement.at_once) or (
                first is not None and now - first > _STRAGGLERS_S
            ):
                break
            for _ in self._happened():
                pass  # no worker has a job yet
        self._compare(reported)
        self._compared = True
        if len(reported) < self._placement.workers:
            _log.info(
                "%d of %d workers have started; the others join when the cluster has room.",
                len(reported),
                self._placement.workers,
            )
        for member in reported:
            self._build(member)

    def _compare(self, members: Sequence[_Member[JobT]]) -> None:
        warning = check_inventories(self._own, _by_machine(members), self._distributions)
        if warning is not None:
            self._log_once("editkit.workers", logging.WARNING, warning)

    def _log_once(self, name: str, level: int, text: str) -> None:
        """Log a message, unless another worker has already sent it."""
        if (name, text) not in self._shown:
            self._shown.add((name, text))
            logging.getLogger(name).log(level, "%s", text)

    def _build(self, member: _Member[JobT]) -> None:
        member.stage = _Stage.BUILDING
        level = logging.getLogger("editkit").getEffectiveLevel()
        self._read_cache_of(member)
        member.pending = member.actor.build.remote([self._recipe], self._keeper, level)

    def _read_cache_of(self, member: _Member[JobT]) -> None:
        """Let other machines copy what the cache of this worker's machine has."""
        node = member.inventory["node"]
        if self._keeper is None or node in self._readers:
            return
        on_node = self._strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_cpus": 0, "scheduling_strategy": on_node}
        reader = self._ray.remote(CacheReader).options(**options).remote(self._given)
        self._readers[node] = reader
        self._keeper.add_reader.remote(node, [reader])

    # ------------------------------------------------------------ jobs

    def _hand_out(self) -> None:
        """Give waiting jobs to workers: to idle ones first, and ahead only while many wait."""
        ready = [member for member in self._members if member.stage is _Stage.READY]
        for held in range(_AHEAD):
            for member in ready:
                many = held == 0 or len(self._waiting) > 2 * len(ready)
                if self._waiting and many and len(member.jobs) == held:
                    number, job = self._waiting.popleft()
                    method = member.actor.work.options(
                        num_returns="streaming", _generator_backpressure_num_objects=_UNREAD
                    )
                    stream = method.remote(self._serializer.dumps(job))
                    member.jobs.append(_Assigned(number, job, stream))

    def _happened(self) -> Iterator[Event[AnswerT]]:
        """Wait for news of the workers, and pass on those that concern jobs."""
        self._cluster.check()
        awaited = {m.awaited: m for m in self._members if m.awaited is not None}
        ready: list[Any] = []
        if awaited:
            ready, _ = self._ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
            if not ready:
                ready, _ = self._ray.wait(list(awaited), num_returns=1, timeout=_POLL_S)
        else:
            time.sleep(_POLL_S)
        for reference in ready:
            yield from self._news_of(awaited[reference])
        self._check_alive()
        self._fill()

    def _news_of(self, member: _Member[JobT]) -> Iterator[Event[AnswerT]]:
        try:
            if member.pending is not None:
                content = self._ray.get(member.pending)
                member.pending = None
                if member.stage is _Stage.STARTING:
                    self._reported(member, content)
                else:
                    self._built(member, content)
                return
            assigned = member.jobs[0]
            try:
                reference = next(assigned.stream)
            except StopIteration:
                member.jobs.popleft()
                yield Done(assigned.number)
                return
            kind, content = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # outside of what the worker catches
            member.jobs.clear()
            cause = first_line(error.cause, named=True)
            raise WorkerError(f"{cause} (on {member.called})") from error
        except self._ray.exceptions.RayError as error:
            yield from self._lost(member, error)
            return
        if kind == "answer":
            yield Answered(assigned.number, content, member.name)
        else:
            self._handle(member, kind, content)

    def _reported(self, member: _Member[JobT], content: Mapping[str, Any]) -> None:
        """A worker reported what it has."""
        member.inventory = content
        member.machine = content["host"]
        member.name = f"{content['host']}:{content['pid']}"
        if not self._compared:
            return
        try:
            self._compare([each for each in self._members if each.inventory])
        except EditkitError as error:  # the others can finish the run
            self._log_once("editkit.workers", logging.WARNING, f"A machine is not used: {error}")
            self._failed_starts += 1
            self._why_failed = error.message.rstrip(".")
            self._members.remove(member)
            self._ray.kill(member.actor)
        else:
            self._build(member)

    def _built(self, member: _Member[JobT], content: Sequence[tuple[str, Any]]) -> None:
        for kind, each in content:
            if kind == "built":
                member.stage = _Stage.READY
                self._abouts[member.name] = each
                self._failed_starts = 0
            else:
                self._handle(member, kind, each)

    def _handle(self, member: _Member[JobT], kind: str, content: Mapping[str, Any]) -> None:
        """A log message, or an error."""
        if kind == "raised":
            member.jobs.clear()
            elsewhere = member.inventory["node"] != self._cluster.node
            place = (
                f"on {member.machine}: " if elsewhere and not self._abouts.get(member.name) else ""
            )
            raise _rebuilt(content, member, place)
        self._log_once(content["name"], content["level"], content["text"])

    # ------------------------------------------------------------ lost workers

    def _lost(self, member: _Member[JobT], error: Exception) -> Iterator[Event[AnswerT]]:
        """A worker has died: its current job is lost, and those that it held ahead wait again."""
        if "owner has died" in str(error) or "Owner's node" in str(error):
            raise own_node_is_gone() from error
        death = _death(error, member.called, killed_for_memory=self._killed_for_memory(member))
        self._members.remove(member)
        if self._keeper is not None:
            self._keeper.forget.remote(member.name)
        with contextlib.suppress(Exception):
            self._ray.kill(member.actor)
        if member.stage is not _Stage.READY and not death.with_machine:
            self._failed_starts += 1
            self._why_failed = death.reason
            _log.warning("%s, before its first job.", death.reason)
        for assigned in list(member.jobs)[:0:-1]:
            self._waiting.appendleft((assigned.number, assigned.job))
        if member.jobs:
            yield Lost(member.jobs[0].number, death.reason, death.out_of_memory)

    def _killed_for_memory(self, member: _Member[JobT]) -> bool:
        """Whether the system of a worker's machine has killed a process for its memory."""
        node = member.inventory.get("node")
        if node in self._readers:
            try:
                asked = self._readers[node].memory_kills.remote()
                kills = int(self._ray.get(asked, timeout=_KILLS_S))
            except (self._ray.exceptions.RayError, TimeoutError):
                return False
        elif node == self._cluster.node:
            kills = memory_kills()
        else:
            return False
        before = self._kills.get(node, member.inventory["memory_kills"])
        self._kills[node] = kills
        return kills > int(before)

    def _check_alive(self) -> None:
        """Notice that there is no worker, and that none comes.

        Raises:
            ClusterError: There has been none for as long as :attr:`RayPool.patience`.
        """
        now = time.monotonic()
        if any(member.stage is not _Stage.STARTING for member in self._members):
            self._alive_at = now
            return
        if not self._members and self._failed_starts:
            raise ClusterError(
                f"workers end while they load: {self._why_failed}.",
                hint="If they run out of memory, use fewer: --workers N.",
            )
        if now - self._alive_at > self._patience:
            raise ClusterError(
                f"no worker is left, and none could be started for {self._patience:.0f} s.",
                hint="Add machines to the cluster or free some ('ray status' shows what is in "
                "use), and run the same command again: it resumes.",
            )


def _by_machine(members: Sequence[_Member[Any]]) -> dict[str, Mapping[str, Any]]:
    """Inventories by machine; processes that differ on one machine are named apart."""
    inventories: dict[str, Mapping[str, Any]] = {}
    own = {"pid": 0, "node": "", "memory_kills": 0}
    for member in members:
        known = inventories.get(member.machine)
        same = known is None or {**known, **own} == {**member.inventory, **own}
        inventories[member.machine if same else member.name] = member.inventory
    return inventories


@dataclasses.dataclass(frozen=True)
class _Death:
    """Why a worker died, as far as Ray and its machine know."""

    reason: str
    out_of_memory: bool = False
    with_machine: bool = False


def _death(error: Exception, who: str, *, killed_for_memory: bool) -> _Death:
    """What an error of Ray means.

    Args:
        error: The error.
        who: The worker's name in messages.
        killed_for_memory: Whether the system has just killed a process of its machine for memory.
    """
    text = str(error)
    kind = type(error).__name__
    if kind == "OutOfMemoryError" or "running low on memory" in text:
        return _Death(f"{who} was ended by Ray because its machine ran out of memory", True)
    if killed_for_memory:
        return _Death(f"{who} was killed because its machine ran out of memory", True)
    if re.search(r"node (has )?(died|crashed)|node was terminated|node.* dead", text):
        return _Death(f"the machine of {who} has left the cluster", with_machine=True)
    if kind in ("ActorDiedError", "ActorUnavailableError", "WorkerCrashedError"):
        return _Death(f"{who} ended unexpectedly: it crashed or was killed")
    return _Death(f"answers of {who} were lost ({kind})")


def _rebuilt(content: Mapping[str, Any], member: _Member[Any], place: str) -> BaseException:
    """The error that a worker raised, of the same class if it is one of ours or of a plugin.

    Args:
        content: The error as plain data.
        member: The worker.
        place: Where it was raised, in front of the message of errors of ours.
    """
    message, hint = str(content["message"]), content["hint"]
    error: BaseException | None = None
    for module, name in content["classes"]:
        kind = _class_named(module, name)
        if kind in (KeyboardInterrupt, MemoryError):
            error = kind(*filter(None, [message]))
        elif kind is not None and issubclass(kind, EditkitError):
            ours = kind.__new__(kind)
            EditkitError.__init__(ours, place + message, hint=hint)
            error = ours
        if error is not None:
            break
    if error is None:
        name = content["classes"][0][1]
        error = WorkerError(f"{name}: {message} (on {member.called})")
    error.__cause__ = _TracebackThere("\n" + content["traceback"])
    return error


def _class_named(module: str, name: str) -> type[BaseException] | None:
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None
    return kind if isinstance(kind, type) and issubclass(kind, BaseException) else None
