"""Traces on a Ray cluster of this machine: the rows of one process, also after a kill."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import editkit
from editkit.benchmark.store import Store
from editkit.cli.main import main
from editkit.data_types import fact_of
from editkit.results import STORE_FILE, Row
from editkit.workers.pool import InProcess, Pool
from editkit.workers.ray_pool import RayPool
from editkit_plugins.tracing.averages import AverageTrace
from editkit_plugins.tracing.bench import Answer, Job, NamedTools, TraceBench, TraceFacts
from editkit_plugins.tracing.stored_traces import adapted_study, traced_study

pytest.importorskip("ray", reason="ray is not installed: pip install 'editkit[ray]'")


def rows_in(out: Path) -> list[Row]:
    """All rows, without their times."""
    with Store(out / STORE_FILE, read_only=True) as store:
        rows = [row for fingerprint in store.cells() for row in store.rows(fingerprint)]
    return [dataclasses.replace(row, completed_at=0.0) for row in rows]


@pytest.mark.slow
def test_the_command_on_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["trace", "--model", "atlas", "--facts", "atlas", "--limit", "6", "--no-mlflow"]
    arguments += ["--set", "samples=2", "--set", "window=2", "--set", "kinds=[mlp]", "--json"]
    workers = ["--ray", "local", "--workers", "2"]
    assert main([*arguments, "--out", str(tmp_path / "here"), "--quiet"]) == 0
    assert main([*arguments, "--out", str(tmp_path / "there"), "--quiet", *workers]) == 0
    assert rows_in(tmp_path / "here") == rows_in(tmp_path / "there")
    here, there = capsys.readouterr().out.split("\n}\n")[:2]
    assert there == here.replace(str(tmp_path / "here"), str(tmp_path / "there"))


def test_one_fact_is_traced_here(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--prompt", "The capital of Kenya is", "--subject", "Kenya", "--ray", "local"]
    assert main(["trace", "--model", "atlas", *arguments]) == 2
    assert "--ray needs --facts" in capsys.readouterr().err


class Deadly:
    """A recipe for benches that kill their process at fact 3 while a file exists, and at fact 5
    always."""

    def __init__(self, flag: Path, *, always: bool) -> None:
        self.flag, self.always = flag, always

    def build(self) -> DeadlyBench:
        return DeadlyBench(self.flag, always=self.always)


class DeadlyBench(TraceBench):
    def __init__(self, flag: Path, *, always: bool) -> None:
        super().__init__(editkit.load_model("atlas"))
        self.flag, self.always = flag, always

    def do(self, job: Job) -> Iterator[Answer]:
        numbers = [case.number for case in job.cases] if isinstance(job, TraceFacts) else []
        for i, answer in enumerate(super().do(job)):
            if 3 in numbers[i : i + 1] and self.flag.exists():
                self.flag.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if 5 in numbers[i : i + 1] and self.always:
                os.kill(os.getpid(), signal.SIGKILL)
            yield answer


@pytest.mark.slow
def test_workers_are_killed_while_they_trace(tmp_path: Path) -> None:
    records = editkit.make_dataset("atlas").load().records[:12]
    facts = [fact_of(record.request) for record in records]
    values = {"samples": 1, "kinds": ("mlp",), "window": 2}

    def traced(pool: Pool, out: str, *, always: bool) -> AverageTrace:
        with pool.opened(Deadly(flag, always=always)) as crew:
            study = adapted_study(crew, NamedTools("causal-tracing", values), facts)
            return traced_study(crew, study, tmp_path / out)

    flag = tmp_path / "flag"
    traced(InProcess(), "here", always=False)
    flag.touch()
    average = traced(RayPool("local", workers=2), "there", always=True)
    assert not flag.exists()
    assert list(average.failed) == [5]
    assert average.failed[5].startswith("3 workers died while they traced it: ")
    others = [row for row in rows_in(tmp_path / "here") if row.case_id != 5]
    assert [row for row in rows_in(tmp_path / "there") if row.case_id != 5] == others
    assert not traced(InProcess(), "there", always=False).failed
    assert rows_in(tmp_path / "there") == rows_in(tmp_path / "here")
