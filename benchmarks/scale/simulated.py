"""A plan of any size, and a pool of simulated workers that answer it with realistic rows.

The workers compute nothing: an answer is due a given time after its job was submitted. Everything
else is the real code of a run. A driver that cannot keep up makes the answers late.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from editkit.benchmark.jobs import Answer, Begun, Job, Rows
from editkit.benchmark.plan import Plan, cut, make_plan
from editkit.benchmark.spec import Flags, apply_flags, load_benchmark
from editkit.records.digests import slice_digest
from editkit.registry.plugins import Registry
from editkit.results import Row
from editkit.workers.pool import Answered, AnswerT, Crew, Done, Event, JobT, Pool, Recipe

__all__ = [
    "InstantBench",
    "InstantPool",
    "InstantRecipe",
    "Moment",
    "SimulatedPool",
    "plan_of",
    "sample_rows",
]

_SAMPLES = 200
_LENGTHS = {  # numbers per record that the metrics of the benchmark atlas keep
    "efficacy/nll_new": 1,
    "efficacy/nll_true": 1,
    "neighborhood/nll_new": 10,
    "neighborhood/nll_true": 10,
    "paraphrase/nll_new": 2,
    "paraphrase/nll_true": 2,
    "same_subject/nll_new": 1,
    "same_subject/nll_true": 1,
    "same_subject/nll_true_before": 1,
}
_LENGTHS_OF_GENERATION = {
    "attribute/nll_new": 10,
    "attribute/nll_true": 10,
    "fluency/entropies": 10,
}
_TEXTS, _CHARACTERS = 10, 480  # of 100 tokens each


def plan_of(
    registry: Registry,
    *,
    records: int,
    editors: int,
    generation: bool = False,
    shard: tuple[int, int] = (1, 1),
) -> Plan:
    """The benchmark ``atlas``, or ``atlas-generation``, with its records repeated.

    Args:
        registry: Provides the benchmark.
        records: How many records.
        editors: How many of its editors, from the first.
        generation: Whether edited models also write texts.
        shard: (I, N): part I of N.
    """
    benchmark, place = load_benchmark("atlas-generation" if generation else "atlas", registry)
    names = [choice.name for choice in benchmark.editors][:editors]
    benchmark, _ = apply_flags(benchmark, Flags(editors=names))
    plan = make_plan(benchmark, registry, place=place)
    own = tuple(
        dataclasses.replace(plan.records[i % len(plan.records)], case_id=i) for i in range(records)
    )
    dataset = {**plan.dataset, "digest": slice_digest(own), "n_records": records}
    batches = [b for b in cut(own, plan.batch) if b.index % shard[1] == shard[0] - 1]
    return dataclasses.replace(
        plan, records=own, batches=tuple(batches), dataset=dataset, shard=shard
    )


def sample_rows(plan: Plan, *, generation: bool = False) -> list[Row]:
    """Rows with random numbers, as many and as long as in a real run."""
    draw = random.Random(0)
    lengths = {**_LENGTHS, **(_LENGTHS_OF_GENERATION if generation else {})}
    keys = [score.key for metric in plan.metrics for score in metric.scores]

    def text() -> str:
        return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz     ", k=_CHARACTERS))

    def row() -> Row:
        return Row(
            0,
            "done",
            {key: draw.random() for key in keys},
            {key: [9 * draw.random() for _ in range(n)] for key, n in lengths.items()},
            {"edit_s": draw.random(), "score_s": draw.random(), "prepare_s": draw.random()},
            {"converged": True, "delta_norm": draw.random(), "loss": draw.random(), "steps": 10},
            peak_rss_mb=500 + draw.random(),
            texts={"generation": [text() for _ in range(_TEXTS)]} if generation else {},
        )

    return [row() for _ in range(_SAMPLES)]


class Moment(NamedTuple):
    """Seconds of the clock, and of the processor."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Moment:
        """This moment."""
        return cls(time.monotonic(), time.process_time())


class SimulatedPool:
    """Workers that answer a job after a time per record, plus or minus 30%.

    Args:
        plan: The plan that they work on.
        rows: Rows to answer with, in turn.
        workers: How many.
        seconds: Seconds per record; 0 answers at once.
    """

    is_local = False
    place = "simulated machines"

    def __init__(self, plan: Plan, rows: Sequence[Row], *, workers: int, seconds: float) -> None:
        self._plan, self._rows, self._workers, self._seconds = plan, rows, workers, seconds
        self.moments: list[Moment] = []
        """When the driver asked for the first answer, and when it had taken those of each job."""
        self.durations: list[float] = []
        """Seconds of each job."""

    @property
    def least_s(self) -> float:
        """Seconds from start to end with a driver that takes no time."""
        ends = [0.0] * self._workers  # a heap
        for seconds in self.durations:
            heapq.heapreplace(ends, ends[0] + seconds)
        return max(ends)

    @staticmethod
    def rows_of(rows: Sequence[Row], cases: Iterable[int]) -> list[Row]:
        """Rows of some cases, made from samples."""
        now = time.time()
        return [
            dataclasses.replace(rows[case % len(rows)], case_id=case, completed_at=now)
            for case in cases
        ]

    @contextlib.contextmanager
    def opened(
        self,
        recipe: Recipe[JobT, AnswerT],
        *,
        distributions: Sequence[str] = (),
        jobs: int | None = None,
    ) -> Iterator[Crew[JobT, AnswerT]]:
        """The recipe is not used: simulated workers build nothing."""
        crew = _Crew(
            self._plan, self._rows, self._workers, self._seconds, self.moments, self.durations
        )
        yield cast("Crew[JobT, AnswerT]", crew)


class _Crew:
    def __init__(
        self,
        plan: Plan,
        rows: Sequence[Row],
        workers: int,
        seconds: float,
        moments: list[Moment],
        durations: list[float],
    ) -> None:
        self.workers = workers
        self._rows, self._seconds, self._moments = rows, seconds, moments
        self._durations = durations
        self._due: list[tuple[float, int, Job]] = []  # a heap
        self._submitted = 0
        self._draw = random.Random(0)
        environment = {"simulated": True}
        self.about: Mapping[str, Any] = {
            "model": plan.model_description(),
            "environment": environment,
        }

    def about_worker(self, worker: str) -> Mapping[str, Any]:
        return self.about

    def submit(self, job: Job) -> int:
        number = self._submitted
        self._submitted += 1
        # Records differ: without that, workers would stay in step and answer all at once.
        seconds = self._seconds * self._draw.uniform(0.7, 1.3)
        self._durations.append(seconds * len(job.unit.records))
        heapq.heappush(self._due, (time.monotonic() + self._durations[-1], number, job))
        return number

    def events(self) -> Iterator[Event[Answer]]:
        self._moments.append(Moment.now())
        while self._due:
            due, number, job = heapq.heappop(self._due)
            if (early := due - time.monotonic()) > 0:
                time.sleep(early)
            worker = f"worker {number % self.workers}"
            cases = [record.case_id for record in job.unit.records]
            yield Answered(number, Begun(), worker)
            yield Answered(number, Rows(SimulatedPool.rows_of(self._rows, cases)), worker)
            yield Done(number)
            self._moments.append(Moment.now())


# ---------------------------------------------------------------- real workers without a model


@dataclasses.dataclass(frozen=True)
class InstantRecipe:
    """A worker that has no model and answers at once.

    Attributes:
        rows: Rows to answer with, in turn.
        model: The model's description.
    """

    rows: Sequence[Row]
    model: Mapping[str, Any]

    def build(self) -> InstantBench:
        """Nothing is loaded."""
        return InstantBench(self)


class InstantBench:
    """Answers every job with rows that were made before."""

    def __init__(self, recipe: InstantRecipe) -> None:
        self._recipe = recipe

    def about(self) -> Mapping[str, Any]:
        """What a bench of a run reports."""
        return {"model": self._recipe.model, "environment": {"simulated": True}}

    def do(self, job: Job) -> Iterator[Answer]:
        """A row for each record."""
        yield Begun()
        cases = [record.case_id for record in job.unit.records]
        yield Rows(SimulatedPool.rows_of(self._recipe.rows, cases))


class InstantPool:
    """The workers of another pool, each with an :class:`InstantBench`.

    What a run on them takes is what that pool and the driver take.
    """

    def __init__(self, pool: Pool, recipe: InstantRecipe) -> None:
        self.is_local, self.place = pool.is_local, pool.place
        self._pool, self._recipe = pool, recipe
        self.moments: list[Moment] = []
        """When the first worker was ready, and when the last answer had been taken."""

    @contextlib.contextmanager
    def opened(
        self,
        recipe: Recipe[JobT, AnswerT],
        *,
        distributions: Sequence[str] = (),
        jobs: int | None = None,
    ) -> Iterator[Crew[JobT, AnswerT]]:
        """Open the other pool with our recipe instead."""
        own = cast("Recipe[JobT, AnswerT]", self._recipe)
        with self._pool.opened(own, distributions=distributions, jobs=jobs) as crew:
            self.moments.append(Moment.now())
            yield crew
            self.moments.append(Moment.now())
