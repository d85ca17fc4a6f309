"""One thread for all work on the model.

While edits are applied, a model belongs to one thread, but a web server answers each request in
another one. So requests submit jobs, and the thread that calls :meth:`Worker.run` does them one
after the other. In ``editkit demo`` it is the main thread, which Ctrl-C interrupts at once, also in
the middle of an edit.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from editkit.progress import Counter, listening

__all__ = ["WAITING", "Job", "Worker", "statuses"]

T = TypeVar("T")
_TICK = 0.15
WAITING = "Waiting: the model works on another request."


class Job(Generic[T]):
    """Work on the model, its result, and how far it is.

    Attributes:
        future: The result, or the error; may be cancelled until the work starts.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self.future: Future[T] = Future()
        self._work = work
        self._counters: list[Counter] = []  # outermost first

    @property
    def status(self) -> str:
        """A sentence for the user, as in ``4/20 steps: rome``."""
        if not self.future.running():
            return WAITING
        counters = list(self._counters)
        shown = {counter.label: counter for counter in (*counters[:1], *counters[-1:])}
        return " · ".join(map(str, shown.values())) or "Working."

    def do(self) -> None:
        """Do the work; an :class:`Exception` becomes the job's error."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            with listening(self):
                result = self._work()
        except BaseException as error:
            self.future.set_exception(error)
            if not isinstance(error, Exception):  # Ctrl-C
                raise
        else:
            self.future.set_result(result)

    def started(self, counter: Counter) -> None:
        """Called when a part of the work starts (:class:`editkit.progress.Listener`)."""
        self._counters.append(counter)

    def changed(self, counter: Counter) -> None:
        """Called when a part advances."""

    def ended(self, counter: Counter) -> None:
        """Called when a part ends."""
        self._counters.remove(counter)


class Worker:
    """Does jobs one after the other, in the order of their submission."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()

    def submit(self, work: Callable[[], T]) -> Job[T]:
        """Ask for work; from any thread."""
        job = Job(work)
        self._jobs.put(job)
        return job

    def run(self) -> None:
        """Do jobs in this thread until :meth:`stop`."""
        while (job := self._jobs.get()) is not None:
            job.do()

    def stop(self) -> None:
        """End :meth:`run` after the jobs that were submitted before; from any thread."""
        self._jobs.put(None)


async def statuses(job: Job[Any]) -> AsyncIterator[str]:
    """What to show while a job waits and works. Whoever stops listening gives up a waiting job."""
    shown = ""
    try:
        while not job.future.done():
            await asyncio.sleep(_TICK)
            if not job.future.done() and job.status != shown:
                shown = job.status
                yield shown
    finally:
        job.future.cancel()
