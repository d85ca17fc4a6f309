"""Traces on workers equal those of one process, and survive workers that die."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import editkit
from editkit import (
    ClusterError,
    EditRequest,
    Fact,
    LanguageModel,
    Localization,
    Locator,
    Record,
)
from editkit.benchmark.spec import ModelChoice
from editkit.benchmark.store import Store
from editkit.data_types import fact_of
from editkit.results import STORE_FILE, Row
from editkit.workers.pool import InProcess, Pool
from editkit_plugins.tracing import bench
from editkit_plugins.tracing.averages import AverageTrace
from editkit_plugins.tracing.bench import (
    NamedEditor,
    NamedModel,
    NamedTools,
    TraceBench,
    TraceFacts,
)
from editkit_plugins.tracing.causal_tracing import CausalTracingLocator
from editkit_plugins.tracing.config import CausalTracingConfig
from editkit_plugins.tracing.stored_traces import adapted_study, traced_study
from tests.pools import Death, PicklingPool

CONFIG = CausalTracingConfig(samples=1)
VALUES = {"samples": 1, "kinds": ("mlp",), "window": 2}
ATLAS = NamedModel(ModelChoice(name="atlas"))


@functools.cache
def atlas() -> LanguageModel:
    return editkit.load_model("atlas")


class Quick:
    """A recipe whose benches share one model, to save time."""

    def build(self) -> TraceBench:
        return TraceBench(atlas())


QUICK = Quick()


@functools.cache
def records() -> Sequence[Record]:
    return editkit.make_dataset("atlas").load().records


def some_facts(n: int) -> list[Fact]:
    return [fact_of(record.request) for record in records()[:n]]


def traced(
    pool: Pool,
    out: Path,
    facts: Sequence[Fact],
    tools: NamedTools | None = None,
    requests: Sequence[EditRequest] = (),
    recipe: NamedModel | Quick = QUICK,
) -> AverageTrace:
    tools = tools or NamedTools("causal-tracing", VALUES)
    with pool.opened(recipe) as crew:
        return traced_study(crew, adapted_study(crew, tools, facts, requests), out)


def rows_in(out: Path) -> list[Row]:
    """All rows, without their times."""
    with Store(out / STORE_FILE, read_only=True) as store:
        rows = [row for fingerprint in store.cells() for row in store.rows(fingerprint)]
    return [dataclasses.replace(row, completed_at=0.0) for row in rows]


def same(average: AverageTrace, other: AverageTrace) -> bool:
    return dataclasses.replace(average, finished=0.0) == dataclasses.replace(other, finished=0.0)


@pytest.mark.parametrize("values", [VALUES, {**VALUES, "corruption": "substitute"}])
def test_rows_do_not_depend_on_the_workers(tmp_path: Path, values: dict[str, Any]) -> None:
    facts, tools = some_facts(6), NamedTools("causal-tracing", values)
    here = traced(InProcess(), tmp_path / "here", facts, tools)
    pool = PicklingPool(workers=3)
    there = traced(pool, tmp_path / "there", facts, tools, recipe=ATLAS)
    assert here.known > 1
    assert rows_in(tmp_path / "here") == rows_in(tmp_path / "there")
    assert same(here, there)
    assert [len(job.cases) for job in pool.jobs[1:]] == [1] * 6


def test_facts_of_a_dead_worker_are_traced_again(tmp_path: Path) -> None:
    facts = some_facts(12)
    expected = traced(InProcess(), tmp_path / "here", facts)
    deaths: list[int] = []

    def dies(job: Any, answers: int) -> Death | None:
        if isinstance(job, TraceFacts) and answers == 1 and len(deaths) < 2:
            deaths.append(job.cases[answers].number)
            return Death()
        return None

    pool = PicklingPool(dies=dies)
    assert same(traced(pool, tmp_path / "there", facts), expected)
    assert rows_in(tmp_path / "there") == rows_in(tmp_path / "here")
    assert len(pool.built) == 4
    traced_cases = [case.number for job in pool.jobs[1:] for case in job.cases]
    assert all(traced_cases.count(case) == 1 for case in range(0, 12, 3))  # the answered ones


@pytest.mark.parametrize(
    ("killer", "out_of_memory", "sizes"),
    [
        (1, False, [4, 4, 3, 3, 2]),
        (3, False, [4, 4, 1, 1]),
        (1, True, [4, 4, 1, 1, 1, 1]),  # once it is about memory, one fact at a time
    ],
)
def test_a_fact_that_kills_workers_fails_for_now(
    tmp_path: Path, killer: int, out_of_memory: bool, sizes: list[int]
) -> None:
    facts = some_facts(8)

    def dies(job: Any, answers: int) -> Death | None:
        numbers = [case.number for case in job.cases] if isinstance(job, TraceFacts) else []
        traces_it = numbers[answers : answers + 1] == [killer]
        return Death("the kernel killed it", out_of_memory) if traces_it else None

    pool = PicklingPool(workers=1, dies=dies)
    average = traced(pool, tmp_path, facts)
    assert average.failed == {killer: "3 workers died while they traced it: the kernel killed it"}
    assert len(pool.built) == 4
    assert [len(job.cases) for job in pool.jobs if isinstance(job, TraceFacts)] == sizes
    again = traced(PicklingPool(), tmp_path, facts)  # with enough memory
    assert not again.failed
    assert same(again, traced(InProcess(), tmp_path / "here", facts))
    assert not any(row.notes for row in rows_in(tmp_path))


def test_a_fact_without_enough_memory_fails_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = some_facts(4)
    maps = CausalTracingLocator.maps

    def greedy(self: Any, model: Any, some: Sequence[Fact]) -> Any:
        if some[0] == facts[1]:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return maps(self, model, some)

    with monkeypatch.context() as context:
        context.setattr(CausalTracingLocator, "maps", greedy)
        for pool in (InProcess(), PicklingPool()):
            average = traced(pool, tmp_path, facts)
            assert list(average.failed) == [1]
            assert "out of memory: CUDA out of memory." in average.failed[1]
    assert not traced(InProcess(), tmp_path, facts).failed


def test_an_interrupted_run_resumes_on_another_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = some_facts(6)
    trace = bench._trace

    def interrupted(model: Any, locator: Any, case: int, fact: Fact) -> Row:
        if case == 4:
            raise KeyboardInterrupt
        return trace(model, locator, case, fact)

    with monkeypatch.context() as context:
        context.setattr(bench, "_trace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            traced(PicklingPool(), tmp_path / "a", facts)
    stored = [row.case_id for row in rows_in(tmp_path / "a")]
    assert 2 <= len(stored) < 6
    pool = PicklingPool(workers=3)
    average = traced(pool, tmp_path / "a", facts)
    done = [case.number for job in pool.jobs[1:] for case in job.cases]
    assert sorted([*done, *stored]) == list(range(6))
    assert same(average, traced(InProcess(), tmp_path / "b", facts))


def test_new_facts_after_edits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    requests = [record.request for record in records()[:3]]
    facts = [fact_of(request, request.target_new) for request in requests]
    config = editkit.make_editor("rome", "atlas", corpus_tokens=4000).config
    tools = NamedTools("causal-tracing", VALUES, edit=NamedEditor("rome", "rome", config, 0))
    here = traced(InProcess(), tmp_path / "here", facts, tools, requests)
    there = traced(PicklingPool(), tmp_path / "there", facts, tools, requests)
    assert rows_in(tmp_path / "here") == rows_in(tmp_path / "there")
    assert same(here, there)


def test_rows_have_the_environment_of_their_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about, machines = TraceBench.about, itertools.count()
    monkeypatch.setattr(
        TraceBench, "about", lambda self: {**about(self), "environment": {"m": next(machines)}}
    )
    traced(PicklingPool(workers=2), tmp_path, some_facts(6))
    with Store(tmp_path / STORE_FILE, read_only=True) as store:
        known = store.environments()
    computed = [known[row.environment]["m"] for row in rows_in(tmp_path)]
    assert computed == [0, 1, 0, 1, 0, 1]


class Drawing(Locator[CausalTracingConfig]):
    """Draws from the global generators, as a third party's locator may."""

    def locate(self, model: LanguageModel, facts: Sequence[Fact]) -> list[Localization]:
        noise = float(torch.rand(()))
        [real] = CausalTracingLocator(self.config).locate(model, facts)
        scores = tuple(tuple(noise for _ in row) for row in real.scores)
        return [dataclasses.replace(real, scores=scores)]


def test_random_numbers_belong_to_the_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugins:
        def build(self, kind: str, name: str, config: CausalTracingConfig) -> Drawing:
            return Drawing(config)

    monkeypatch.setattr(bench, "make_locator", lambda *_, **__: Drawing(CONFIG))
    monkeypatch.setattr(bench, "default_registry", Plugins)
    facts = some_facts(4)
    traced(PicklingPool(workers=3), tmp_path / "there", facts)
    traced(InProcess(), tmp_path / "here", facts)
    assert rows_in(tmp_path / "here") == rows_in(tmp_path / "there")
    noise = [row.details["state/largest"][0] for row in rows_in(tmp_path / "here") if row.details]
    assert len(noise) == len(set(noise)) > 1


def test_workers_with_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = some_facts(2)
    with PicklingPool().opened(QUICK) as crew:
        study = adapted_study(crew, NamedTools("causal-tracing", VALUES), facts)
        describe = editkit.LanguageModel.describe
        monkeypatch.setattr(
            editkit.LanguageModel, "describe", lambda self: {**describe(self), "device": "cuda:0"}
        )
        with pytest.raises(ClusterError, match=r"model: device is 'cuda:0', expected 'cpu'"):
            traced_study(crew, study, tmp_path)


def test_workers_that_die_while_they_adapt_the_locator() -> None:
    pool = PicklingPool(dies=lambda job, answers: Death("no memory"))
    with (
        pool.opened(QUICK) as crew,
        pytest.raises(ClusterError, match="3 workers died one after the other: no memory"),
    ):
        adapted_study(crew, NamedTools("causal-tracing", VALUES), some_facts(1))
