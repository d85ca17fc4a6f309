"""A run on workers that share nothing with the driver, and that die, ends in the same rows."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from editkit import ClusterError, ConfigError, ModelError, PluginError
from editkit.benchmark import bench
from editkit.benchmark.jobs import Trying
from editkit.benchmark.plan import Plan, make_plan
from editkit.benchmark.runner import Finished, run_plan
from editkit.benchmark.spec import parse_benchmark
from editkit.benchmark.store import Store
from editkit.registry.config import resolve_config
from editkit.registry.plugins import Registry, default_registry
from editkit.results import Row
from editkit.workers.pool import InProcess
from tests.editkit.benchmark import fakes, sequence_plugin
from tests.editkit.benchmark.sequence_plugin import STEPS, Loss, OneByOne, Stateful
from tests.editkit.benchmark.test_sequences_survive import Killed, files
from tests.editkit.benchmark.test_sequences_survive import rows as rows_of_one_cell
from tests.pools import Death, PicklingPool, copied
from tests.tiny import tiny

BENCHMARK = """
name: workers
model: tiny
dataset: {dataset}
metrics: [loss]
model_metrics: [size]
batch: 2
limit: 6
seeds: {seeds}
editors: {editors}
edits: {edits}
"""
SEQUENCES = "{sequential: 3, step: 1, checkpoints: [1, 2]}"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The plugin of these tests, for the driver and its workers, and a tiny model."""
    registry = Registry()
    registry.register(sequence_plugin, name="towns", distribution="towns", version="1.0")
    monkeypatch.setattr(bench, "default_registry", lambda: registry)
    monkeypatch.setattr(bench, "load_model_of", lambda choice: tiny("gpt2"))
    STEPS.clear()
    return registry


@pytest.fixture
def run(registry: Registry, tmp_path: Path) -> Callable[..., Finished]:
    def execute(
        edits: str,
        editors: str = "[stateful]",
        *,
        pool: Any = None,
        out: str = "out",
        dataset: str = "towns",
        seeds: str = "[0]",
        **options: Any,
    ) -> Finished:
        text = BENCHMARK.format(edits=edits, editors=editors, dataset=dataset, seeds=seeds)
        benchmark = parse_benchmark(text, place="workers.yaml")
        plan: Plan = make_plan(benchmark, registry, **fakes.lookups(tiny("gpt2").fingerprint))
        options = {"quiet": True, "tracking": False, **options}
        return run_plan(plan, tmp_path / out, registry, pool=pool or InProcess(), **options)

    return execute


def rows(finished: Finished) -> list[list[Any]]:
    """The rows of all cells, without times."""
    run = finished.run
    return [rows_of_one_cell(dataclasses.replace(run, cells=(cell,))) for cell in run.cells]


SLOW = pytest.mark.slow
REGIMES = [
    pytest.param("independent", "towns", id="independent"),
    pytest.param("independent", "chains", id="independent, several edits"),
    pytest.param("{joint: 2}", "chains", id="joint"),
    pytest.param(SEQUENCES, "towns", id="sequences"),
    pytest.param(SEQUENCES, "chains", id="sequences, several edits"),
]


@pytest.mark.parametrize(("edits", "dataset"), REGIMES)
def test_rows_do_not_depend_on_the_workers(
    run: Any, tmp_path: Path, edits: str, dataset: str
) -> None:
    both: dict[str, Any] = {
        "editors": "[stateful, one-by-one]", "seeds": "[0, 1]", "dataset": dataset
    }  # fmt: skip
    here = run(edits, out="here", **both)
    pool = PicklingPool(workers=3)
    there = run(edits, out="there", pool=pool, **both)
    assert rows(here) == rows(there)
    assert files(tmp_path / "here") == files(tmp_path / "there")
    assert there.document()["cells"] == _untimed(here.document()["cells"], there)
    assert len(pool.jobs) == 4 * (2 if edits == SEQUENCES else 3)


def _untimed(cells: list[dict[str, Any]], other: Finished) -> list[dict[str, Any]]:
    """The cells of a document with the times and memory of another one."""
    others = other.document()["cells"]
    return [
        {**cell, "time": twin["time"], "memory": twin["memory"]}
        for cell, twin in zip(cells, others, strict=True)
    ]


class DiesAfter:
    """One worker dies after so many answers of all workers."""

    def __init__(self, answers: int) -> None:
        self.left, self.died = answers, False

    def __call__(self, job: Any, answers: int) -> Death | None:
        self.left -= 1
        self.died = self.died or self.left < 0
        return Death() if self.left == -1 else None


LOSSES = [
    pytest.param("independent", "chains", 60.0, 3, id="independent"),
    pytest.param("{joint: 2}", "chains", 60.0, 5, id="joint"),
    pytest.param(SEQUENCES, "towns", 60.0, 7, id="sequences"),
    *(
        pytest.param(*case.values, pause, 1, id=f"all, {case.id}, {pause:g}", marks=SLOW)
        for case in REGIMES
        for pause in (0.0, 60.0)
    ),
]


@pytest.mark.parametrize(("edits", "dataset", "pause", "every"), LOSSES)
def test_a_worker_lost_after_any_answer_changes_no_bit(
    run: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    edits: str,
    dataset: str,
    pause: float,
    every: int,
) -> None:
    monkeypatch.setattr(bench, "_SECONDS_BETWEEN_STATES", pause)
    whole = run(edits, out="whole", dataset=dataset)
    expected, steps = rows(whole), len(STEPS)
    for number in itertools.count(every - 1, every):
        STEPS.clear()
        dies = DiesAfter(number)
        pool = PicklingPool(dies=dies)
        done = run(edits, out=f"{number}", pool=pool, dataset=dataset)
        assert rows(done) == expected, number
        assert files(tmp_path / f"{number}") == files(tmp_path / "whole"), number
        if not dies.died:
            break
        assert len(pool.built) == 3
        assert len(STEPS) <= steps + (9 if pause else 4)  # at most one unit, or one record
    assert number > 8


def test_each_editor_is_prepared_by_few_workers(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[tuple[str, int]] = []
    for editor in (Stateful, OneByOne):
        name = editor.name
        monkeypatch.setattr(
            editor, "prepare", lambda self, model, name=name: prepared.append((name, id(self)))
        )
    both = {"editors": "[stateful, one-by-one]", "seeds": "[0, 1, 2]"}
    run("independent", pool=PicklingPool(workers=3), **both)
    assert len(prepared) == 6  # once per cell
    prepared.clear()
    run("independent", pool=PicklingPool(workers=4), out="more", editors="[stateful]")
    assert 2 <= len(prepared) <= 3  # three batches


def test_a_run_on_workers_resumes_after_any_row(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(run(SEQUENCES, out="whole"))
    put_rows = Store.put_rows
    for number in range(6):
        written: list[Any] = []

        def killed(
            self: Store, *args: Any, written: list[Any] = written, n: int = number, **options: Any
        ) -> None:
            written.append(args)
            if len(written) > n:
                raise Killed
            put_rows(self, *args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Store, "put_rows", killed)
            with pytest.raises(Killed):
                run(SEQUENCES, out=f"{number}", pool=PicklingPool())
        pool = PicklingPool()
        assert rows(run(SEQUENCES, out=f"{number}", pool=pool)) == expected
        assert any(job.written.facts for job in pool.jobs)
        assert files(tmp_path / f"{number}") == files(tmp_path / "whole")


def test_failed_records_are_computed_again_on_workers(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows(run("independent", out="whole"))
    score = Loss.score

    def flaky(self: Any, models: Any, records: Any) -> Any:
        if any(record.case_id == 3 for record in records):
            raise ValueError("not now")
        return score(self, models, records)

    with monkeypatch.context() as patch:
        patch.setattr(Loss, "score", flaky)
        [failed] = rows(run("independent", pool=PicklingPool()))
    assert [row.case_id for row in failed if row.status == "failed"] == [3]
    pool = PicklingPool()
    [again] = rows(run("independent", pool=pool, retry_failed=True))
    assert [[r.case_id for r in job.unit.records] for job in pool.jobs] == [[3]]
    assert [row.case_id for row in again] == [row.case_id for row in whole[0]]
    assert {row.status for row in again} == {"done"}


# ---------------------------------------------------------------- memory, and deadly records


def out_of_memory(monkeypatch: pytest.MonkeyPatch, alone: set[int]) -> None:
    """Scoring more than one record runs out of memory, and some records alone."""
    score = Loss.score

    def greedy(self: Any, models: Any, records: Any) -> Any:
        if len(records) > 1 or records[0].case_id in alone:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return score(self, models, records)

    monkeypatch.setattr(Loss, "score", greedy)


@pytest.mark.parametrize("edits", ["independent", SEQUENCES])
@pytest.mark.parametrize("pool", [InProcess(), PicklingPool()], ids=["here", "workers"])
def test_what_does_not_fit_into_memory_is_done_alone_or_fails(
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    edits: str,
    pool: Any,
) -> None:
    out_of_memory(monkeypatch, {4})
    [all_rows] = rows(run(edits, pool=pool))
    last = [row for row in all_rows if isinstance(row, Row) and row.checkpoint in (0, 3)]
    assert {row.case_id: row.status for row in last} == {
        case: "failed" if case == 4 else "done" for case in range(6)
    }
    [failed] = [row for row in last if row.status == "failed"]
    assert failed.error == "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"
    warned = "2 records together do not fit into memory" in caplog.text
    assert warned == (edits == "independent")


class Deadly:
    """Workers die whenever they try a part; without care, whenever they do its unit."""

    def __init__(self, kind: str, number: int, *, units: tuple[int, ...], oom: bool) -> None:
        self.part, self.units, self.oom = (kind, number), units, oom
        self.deaths = 0

    def __call__(self, job: Any, answers: int) -> Death | None:
        if job.unit.index not in self.units:
            return None
        if job.care is None:
            return self._death() if answers else None
        last = bench_answers.get(id(job), [None])[-1]
        if isinstance(last, Trying) and (last.part.kind, last.part.number) == self.part:
            return self._death()
        return None

    def _death(self) -> Death:
        self.deaths += 1
        return Death("the system killed it", out_of_memory=self.oom)


bench_answers: dict[int, list[Any]] = {}
"""The answers to each job, by its identity."""


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keeps what benches answer."""
    do = bench.Bench.do

    def watching(self: Any, job: Any) -> Iterator[Any]:
        own = bench_answers[id(job)] = []
        for answer in do(self, job):
            own.append(answer)
            yield answer

    monkeypatch.setattr(bench.Bench, "do", watching)
    yield
    bench_answers.clear()


@pytest.mark.parametrize("oom", [True, False])
def test_a_record_that_kills_its_workers_fails(
    run: Any, watched: None, caplog: pytest.LogCaptureFixture, oom: bool
) -> None:
    [expected] = rows(run("independent", out="whole"))
    deadly = Deadly("record", 3, units=(1,), oom=oom)
    [done] = rows(run("independent", pool=PicklingPool(dies=deadly)))
    assert deadly.deaths == (1 if oom else 3) + 3
    by_case = {row.case_id: row for row in done}
    assert by_case[3].error == "3 workers were lost in a row: the system killed it"
    assert [row.case_id for row in done if row.status == "failed"] == [3]
    for row in expected:
        if row.case_id != 3:
            assert by_case[row.case_id].scores == pytest.approx(row.scores, abs=1e-6)
    assert "stateful, batch 1: gives up case 3: 3 workers were lost" in caplog.text


@pytest.mark.parametrize(
    ("kind", "number"), [("step", 1), ("facts", 4), ("model", 0)], ids=lambda value: str(value)
)
def test_a_part_of_a_sequence_that_kills_its_workers_fails(
    run: Any, watched: None, kind: str, number: int
) -> None:
    deadly = Deadly(kind, number, units=(1,), oom=True)
    [done] = rows(run(SEQUENCES, pool=PicklingPool(dies=deadly)))
    last = {row.case_id: row for row in done if isinstance(row, Row) and row.checkpoint == 3}
    models = [row for row in done if not isinstance(row, Row) and row.group == 1]
    reason = "3 workers were lost in a row: the system killed it"
    if kind == "model":  # at every checkpoint
        assert [row.errors for row in models] == [{"size": reason}] * 3
        assert {row.status for row in last.values()} == {"done"}
    else:  # the second fact of the second model
        assert [row.errors for row in models] == [{}] * 3
        assert {case: row.error for case, row in last.items() if row.error} == {4: reason}


def test_workers_that_die_while_they_prepare_an_editor_end_the_run(run: Any) -> None:
    pool = PicklingPool(dies=lambda job, answers: Death("no memory") if answers else None)
    message = r"3 workers in a row were lost while editor 'stateful' of towns 1.0 was prepared: no"
    with pytest.raises(ClusterError, match=message):
        run("independent", pool=pool)
    assert len(pool.built) < 20


class AcceleratorError(RuntimeError):
    """As torch raises when a kernel fails."""


@pytest.mark.parametrize("pool", [InProcess(), PicklingPool()], ids=["here", "workers"])
def test_a_broken_device_ends_its_worker_and_fails_no_record(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: Any
) -> None:
    class Exited(BaseException):
        pass

    def failing(self: Any, models: Any, records: Any) -> Any:
        raise AcceleratorError("CUDA error: an illegal memory access was encountered")

    def leave(code: int) -> None:
        raise Exited(code)

    monkeypatch.setattr(Loss, "score", failing)
    monkeypatch.setattr(bench.os, "_exit", leave)
    message = r"device cpu failed: AcceleratorError: CUDA error: an illegal"
    ends = (ModelError, message) if pool.is_local else (Exited, "1")
    with pytest.raises(ends[0], match=ends[1]):
        run("independent", pool=pool)
    with Store(tmp_path / "out" / "results.sqlite") as store:
        [cell] = store.cells()
        assert not store.rows(cell)


# ---------------------------------------------------------------- what workers are made of


def test_rows_name_the_environment_of_their_worker(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = itertools.count()
    about = bench.Bench.about
    places: dict[int, int] = {}

    def with_number(self: bench.Bench) -> Any:
        number = places.setdefault(id(self), next(numbers) % 2)
        return {**about(self), "environment": {"processor": "AB"[number]}}

    monkeypatch.setattr(bench.Bench, "about", with_number)
    run("independent", pool=PicklingPool(workers=2))
    with Store(tmp_path / "out" / "results.sqlite") as store:
        [cell] = store.cells()
        known = store.environments()
        machines = [known[row.environment]["processor"] for row in store.rows(cell)]
    assert sorted(set(machines)) == ["A", "B"]
    assert caplog.text.count("computes in another environment than the first one") == 1
    assert "processor: A, B" in caplog.text


def test_every_configuration_can_be_sent_to_a_worker() -> None:
    registry = default_registry()
    for kind in ("editor", "metric", "model_metric", "locator"):
        for offer in registry.offers(kind):
            try:
                config = resolve_config(offer).config
            except ConfigError:  # it has a field that must be given
                continue
            assert copied(config) == config, offer.name


# ---------------------------------------------------------------- editors that change the model


@pytest.mark.parametrize("edits", ["independent", SEQUENCES])
def test_an_editor_that_changes_the_model_loses_its_rows_only(
    run: Any, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edits: str
) -> None:
    models: list[Any] = []

    def load(choice: Any) -> Any:
        models.append(tiny("gpt2"))
        return models[-1]

    monkeypatch.setattr(bench, "load_model_of", load)
    edit = Stateful.edit_jointly

    def mutating(self: Any, model: Any, requests: Any) -> Any:
        if requests[0].subject == "Tower 5":
            model.hf.transformer.wte.weight.data[0, 0] += 1
        return edit(self, model, requests)

    monkeypatch.setattr(Stateful, "edit_jointly", mutating)
    step = Stateful.step

    def mutating_step(self: Any, model: Any, requests: Any, state: Any) -> Any:
        if requests[0].subject == "Tower 5":
            model.hf.transformer.wte.weight.data[0, 0] += 1
        return step(self, model, requests, state)

    monkeypatch.setattr(Stateful, "step", mutating_step)
    run(edits, "[one-by-one]", out="other")
    with pytest.raises(PluginError, match="editor 'stateful' of towns 1.0 changed the model's own"):
        run(edits, "[one-by-one, stateful]", pool=PicklingPool(workers=2))
    with Store(tmp_path / "out" / "results.sqlite") as store:
        one, two = store.cells()
        assert not [*store.rows(two), *store.history(two), *store.models(two)]
        assert store.rows(one)
    assert not [path for path in (tmp_path / "out").rglob("*") if two[:16] in path.name]
