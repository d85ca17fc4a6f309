"""A pool whose workers share nothing with the driver, and die when a test wants them to."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from editkit.workers.pool import Answered, Done, Event, Lost, Recipe


@dataclasses.dataclass(frozen=True)
class Death:
    """How a worker dies."""

    reason: str = "killed"
    out_of_memory: bool = False


Dies = Callable[[Any, int], Death | None]
"""Whether a worker dies during a job, after so many answers."""


def never(job: Any, answers: int) -> None:
    """No worker dies."""


@dataclasses.dataclass
class PicklingPool:
    """Workers of this process that get and give pickles only, and take turns after every answer.

    Attributes:
        workers: Number of workers.
        dies: When a worker dies. Its job is lost, and another worker takes its place.
        jobs: All jobs that were begun, in order.
        built: Names of all workers that were built.
    """

    workers: int = 2
    dies: Dies = never
    jobs: list[Any] = dataclasses.field(default_factory=list)
    built: list[str] = dataclasses.field(default_factory=list)

    is_local = False
    place = "a test"

    @contextlib.contextmanager
    def opened(
        self,
        recipe: Recipe[Any, Any],
        *,
        distributions: Sequence[str] = (),
        jobs: int | None = None,
    ) -> Iterator[_Crew]:
        """Build every worker's bench."""
        yield _Crew(self, copied(recipe))


class _Crew:
    def __init__(self, pool: PicklingPool, recipe: Recipe[Any, Any]) -> None:
        self.workers = pool.workers
        self._pool, self._recipe = pool, recipe
        self._waiting: deque[tuple[int, Any]] = deque()
        self._submitted = 0
        self._benches: dict[str, Any] = {}
        self._about: dict[str, Mapping[str, Any]] = {}
        for _ in range(pool.workers):
            self._build()
        self._first = next(iter(self._benches))

    def _build(self) -> None:
        name = f"worker {len(self._pool.built)}"
        self._pool.built.append(name)
        self._benches[name] = copied(self._recipe).build()
        self._about[name] = copied(self._benches[name].about())

    @property
    def about(self) -> Mapping[str, Any]:
        return self.about_worker(self._first)

    def about_worker(self, worker: str) -> Mapping[str, Any]:
        return self._about[worker]

    def submit(self, job: Any) -> int:
        self._waiting.append((self._submitted, copied(job)))
        self._submitted += 1
        return self._submitted - 1

    def events(self) -> Iterator[Event[Any]]:
        running: dict[str, tuple[int, Any, Iterator[Any], int]] = {}
        while self._waiting or running:
            for worker in list(self._benches):
                if worker not in running:
                    if not self._waiting:
                        continue
                    number, job = self._waiting.popleft()
                    self._pool.jobs.append(job)
                    running[worker] = number, job, self._benches[worker].do(job), 0
                number, job, answers, n = running.pop(worker)
                if death := self._pool.dies(job, n):
                    del self._benches[worker]
                    self._build()
                    yield Lost(number, death.reason, death.out_of_memory)
                    continue
                try:
                    answer = copied(next(answers))
                except StopIteration:
                    yield Done(number)
                else:
                    running[worker] = number, job, answers, n + 1
                    yield Answered(number, answer, worker)


def copied(value: Any) -> Any:
    """A value after its way to another process."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - its own
