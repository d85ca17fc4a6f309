"""How many workers a cluster holds."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import pytest

from editkit.errors import ClusterError
from editkit.workers.placement import Machine, Placement, place
from editkit.workers.ray_pool import RayPool

LAPTOP = [Machine(8)]
EIGHT_GPUS = [Machine(64, 8)]
MIXED = [Machine(16, 4), Machine(8), Machine(16, 2)]


@pytest.mark.parametrize(
    ("machines", "workers", "gpus", "placement"),
    [
        (LAPTOP, None, 0, Placement(8, 1, 0, 8)),
        (LAPTOP, 2, 0, Placement(2, 4, 0, 2)),
        (LAPTOP, 3, 0, Placement(3, 2, 0, 3)),
        (LAPTOP, 20, 0, Placement(20, 1, 0, 8)),
        (LAPTOP, None, 1, Placement(0, 1, 1, 0)),
        (EIGHT_GPUS, None, 1, Placement(8, 8, 1, 8)),
        (EIGHT_GPUS, None, 0.5, Placement(16, 4, 0.5, 16)),
        (EIGHT_GPUS, None, 4, Placement(2, 32, 4, 2)),
        (EIGHT_GPUS, 3, 0.1, Placement(3, 21, 0.1, 3)),
        ([Machine(4, 8)], None, 1, Placement(4, 1, 1, 4)),
        (MIXED, None, 1, Placement(6, 4, 1, 6)),
        (MIXED, 5, 0, Placement(5, 8, 0, 5)),
        ([], None, 0, Placement(0, 1, 0, 0)),
    ],
)
def test_workers_share_processors_and_gpus(
    machines: list[Machine], workers: int | None, gpus: float, placement: Placement
) -> None:
    assert place(machines, workers, gpus) == placement


def test_fewer_jobs_start_fewer_workers_with_the_same_threads() -> None:
    placement = place(LAPTOP, 4, 0)
    assert placement.at_most(3) == Placement(3, placement.cpus, 0, 3)
    assert placement.at_most(100) == placement


@pytest.mark.parametrize(
    ("cpus", "gpus", "words"),
    [
        (1, 0, "1 processor"),
        (1, 1, "1 processor and 1 GPU"),
        (4, 0.5, "4 processors and 0.5 GPU"),
        (2, 2, "2 processors and 2 GPUs"),
    ],
)
def test_what_a_worker_gets_in_words(cpus: int, gpus: float, words: str) -> None:
    assert Placement(1, cpus, gpus, 1).each == words


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends that Ray started a cluster on a laptop."""

    @contextlib.contextmanager
    def connected(address: str | None, *, cpus: int | None = None) -> Iterator[Any]:
        yield types.SimpleNamespace(is_own=address == "local", machines=lambda: LAPTOP)

    monkeypatch.setattr("editkit.workers.ray_pool.connected", connected)


@pytest.mark.usefixtures("started")
def test_a_local_cluster_has_no_more_workers_than_processors_or_jobs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert RayPool("local", workers=1000).placement(jobs=3) == Placement(3, 1, 0, 3)
    assert not caplog.records
    assert RayPool("local", workers=1000).placement(jobs=500) == Placement(8, 1, 0, 8)
    [record] = caplog.records
    assert record.message == (
        "--workers 1000: this machine has room for 8 workers with 1 processor each, so no more "
        "are started."
    )
    assert RayPool("auto", workers=1000).placement(jobs=500) == Placement(500, 1, 0, 8)


@pytest.mark.usefixtures("started")
def test_a_cluster_without_gpus_is_refused_with_their_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for pool in (
        RayPool("local", workers=1, gpus_per_worker=1),
        RayPool("auto", gpus_per_worker=1),
    ):
        with pytest.raises(ClusterError) as caught:
            pool.placement(jobs=3)
        assert caught.value.message.endswith(
            "has 1 processor and 1 GPU for a worker: together they have 0 GPUs."
        )
        assert "--device cpu" in str(caught.value.hint)
    assert not caplog.records
    RayPool("auto", workers=1, gpus_per_worker=1).placement(jobs=3)
    assert "0 GPUs. Waiting 180 s for one to join" in caplog.text
