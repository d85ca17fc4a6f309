"""Pools of workers, and the pool that is this process.

A *recipe* builds a worker's *bench* once: a loaded model, prepared metrics, an editor or a locator.
A *job* is done by one worker and yields *answers*. Whoever submits jobs is the *driver*: it alone
writes stores and shows progress. ::

    with pool.opened(recipe) as crew:
        for job in jobs:
            crew.submit(job)
        for event in crew.events():
            ...  # Answered, Done or Lost; further jobs may be submitted here

A pool of other processes pickles recipes, jobs, answers and errors.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from editkit.errors import ClusterError

__all__ = [
    "MOST_LOSSES",
    "Answered",
    "Bench",
    "Crew",
    "Done",
    "Event",
    "InProcess",
    "Lost",
    "Pool",
    "Recipe",
    "answer_of",
]

MOST_LOSSES = 3
"""Workers that one job may cost."""

JobT = TypeVar("JobT")
AnswerT = TypeVar("AnswerT")
_JobT = TypeVar("_JobT", contravariant=True)
_AnswerT = TypeVar("_AnswerT", covariant=True)


class Bench(Protocol[_JobT, _AnswerT]):
    """What a worker keeps for all of its jobs."""

    def about(self) -> Mapping[str, Any]:
        """What the driver must know of this worker before the first job, as plain data."""

    def do(self, job: _JobT) -> Iterator[_AnswerT]:
        """The answers of a job, in order.

        Raises:
            Exception: Ends the whole run, on all workers. Failures of single records are answers.
        """


class Recipe(Protocol[_JobT, _AnswerT]):
    """How a worker builds its bench."""

    def build(self) -> Bench[_JobT, _AnswerT]:
        """Load and prepare everything; called once per worker.

        Raises:
            EditkitError: Something cannot be loaded or prepared.
        """


@dataclasses.dataclass(frozen=True)
class Answered(Generic[AnswerT]):
    """An answer. The answers of one job arrive in order; those of several jobs interleave.

    Attributes:
        job: Number of the job, as :meth:`Crew.submit` returned it.
        answer: The answer.
        worker: Name of the worker.
    """

    job: int
    answer: AnswerT
    worker: str


@dataclasses.dataclass(frozen=True)
class Done:
    """A job is done: all of its answers have arrived."""

    job: int


@dataclasses.dataclass(frozen=True)
class Lost:
    """A worker died before its job was done. The driver may submit the rest of it again.

    Attributes:
        job: Number of the job. Answers that arrived before remain valid.
        reason: Why the worker died, as far as it is known.
        out_of_memory: Whether it was killed for its memory.
    """

    job: int
    reason: str
    out_of_memory: bool = False


Event: TypeAlias = Answered[AnswerT] | Done | Lost


class Crew(Protocol[_JobT, AnswerT]):
    """The workers of an opened pool, each with its bench."""

    @property
    def workers(self) -> int:
        """Number of workers."""

    @property
    def about(self) -> Mapping[str, Any]:
        """:meth:`Bench.about` of the first worker."""

    def about_worker(self, worker: str) -> Mapping[str, Any]:
        """:meth:`Bench.about` of the worker with this name."""

    def submit(self, job: _JobT) -> int:
        """Add a job; jobs start in order. Returns its number."""

    def events(self) -> Iterator[Event[AnswerT]]:
        """What happens, until all submitted jobs are done or lost.

        Raises:
            EditkitError: A bench raised it; the other jobs are abandoned.
        """


class Pool(Protocol):
    """Where jobs are done."""

    @property
    def is_local(self) -> bool:
        """Whether the driver itself does the jobs, in this process."""

    @property
    def place(self) -> str:
        """Where its workers are, for messages: ``this machine``."""

    def opened(
        self,
        recipe: Recipe[JobT, AnswerT],
        *,
        distributions: Sequence[str] = (),
        jobs: int | None = None,
    ) -> contextlib.AbstractContextManager[Crew[JobT, AnswerT]]:
        """Inside, workers have a bench; they end with the block.

        Args:
            recipe: How a worker builds its bench.
            distributions: Names of the distributions of the plugins that it uses. Every worker must
                have the same versions of them.
            jobs: How many jobs there will be at most, lost ones counted once. No more workers are
                started.

        Raises:
            EditkitError: A bench cannot be built.
            ClusterError: There is no cluster, or its machines do not fit each other.
        """


def answer_of(crew: Crew[_JobT, AnswerT], job: _JobT) -> AnswerT:
    """The only answer of a job, while no other job waits. If its worker dies, another one does it.

    Raises:
        ClusterError: Three workers died.
        EditkitError: The bench raised it.
    """
    answers = []
    for losses in range(1, MOST_LOSSES + 1):
        crew.submit(job)
        reason = ""
        for event in crew.events():
            if isinstance(event, Answered):
                answers.append(event.answer)
            elif isinstance(event, Lost):
                reason = event.reason
        if not reason:
            break
        if losses == MOST_LOSSES:
            raise ClusterError(
                f"{losses} workers died one after the other: {reason}.",
                hint="Run with --debug, or use fewer workers for each machine.",
            )
    return answers[-1]


class InProcess:
    """The pool of this process: one worker, which does job after job. Nothing is copied."""

    is_local = True
    place = "this process"

    @contextlib.contextmanager
    def opened(
        self,
        recipe: Recipe[JobT, AnswerT],
        *,
        distributions: Sequence[str] = (),
        jobs: int | None = None,
    ) -> Iterator[Crew[JobT, AnswerT]]:
        """Build the bench here."""
        yield _Alone(recipe.build())


class _Alone(Generic[JobT, AnswerT]):
    """A crew of one."""

    workers = 1

    def __init__(self, bench: Bench[JobT, AnswerT]) -> None:
        self._bench = bench
        self._waiting: deque[tuple[int, JobT]] = deque()
        self._submitted = 0

    @property
    def about(self) -> Mapping[str, Any]:
        return self._bench.about()

    def about_worker(self, worker: str) -> Mapping[str, Any]:
        return self._bench.about()

    def submit(self, job: JobT) -> int:
        self._waiting.append((self._submitted, job))
        self._submitted += 1
        return self._submitted - 1

    def events(self) -> Iterator[Event[AnswerT]]:
        while self._waiting:
            number, job = self._waiting.popleft()
            for answer in self._bench.do(job):
                yield Answered(number, answer, "here")
            yield Done(number)
