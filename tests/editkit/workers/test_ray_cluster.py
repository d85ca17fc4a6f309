"""Workers on a cluster of several node processes on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from editkit.errors import ClusterError, ModelError
from editkit.workers.pool import Answered, Crew, Done, InProcess, Lost
from editkit.workers.ray_pool import RayPool
from tests.editkit.workers import needs_ray
from tests.editkit.workers.benches import Job, ProductRecipe
from tests.editkit.workers.caching import CachingRecipe

pytestmark = [needs_ray, pytest.mark.slow]

NODES = 2


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    """A head without processors, and two nodes with one each and a cache of their own."""
    environment = dict(os.environ)
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for number in range(NODES):
            cache = {"EDITKIT_CACHE": str(tmp_path / f"cache-{number}")}
            cluster.add_node(num_cpus=1, env_vars=cache)
        yield cluster
    finally:
        cluster.shutdown()
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def work(
    crew: Crew[Job, Any], jobs: list[Job], *, after: int, then: Callable[[], object]
) -> tuple[dict[tuple[int, int], bytes], list[Lost]]:
    """Do all jobs, and something else after some of them."""
    submitted = {crew.submit(job): job for job in jobs}
    answers = {}
    lost = []
    finished = 0
    for event in crew.events():
        if isinstance(event, Answered):
            number, i, value = event.answer
            answers[number, i] = value
        elif isinstance(event, Lost):
            lost.append(event)
            submitted[crew.submit(submitted[event.job])] = submitted[event.job]
        elif isinstance(event, Done):
            finished += 1
            if finished == after:
                then()
    return answers, lost


def test_a_killed_node_does_not_change_the_answers(cluster: Any) -> None:
    jobs = [Job(number, action="pause") for number in range(16)]
    with InProcess().opened(ProductRecipe()) as alone:
        expected, _ = work(alone, [Job(number) for number in range(16)], after=0, then=list)
    node = sorted(cluster.worker_nodes, key=lambda node: node.unique_id)[0]
    with RayPool(cluster.address).opened(ProductRecipe()) as crew:
        assert crew.workers == NODES
        answers, lost = work(
            crew,
            jobs,
            after=4,
            then=lambda: cluster.remove_node(node, allow_graceful=False),
        )
    assert answers == expected
    assert len(lost) == 1


def test_a_dead_head_ends_the_run_with_an_error(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editkit.workers.cluster._HEAD_GONE_S", 5.0)
    jobs = [Job(number, action="pause") for number in range(60)]
    with (
        pytest.raises(ClusterError, match="the head of the cluster"),
        RayPool(cluster.address).opened(ProductRecipe()) as crew,
    ):
        work(crew, jobs, after=2, then=cluster.head_node.kill_gcs_server)


def test_a_driver_that_loses_its_node_ends_with_an_error(cluster: Any) -> None:
    jobs = [Job(number, action="pause") for number in range(60)]
    with (
        pytest.raises(ClusterError, match="the Ray node of this machine is gone"),
        RayPool(cluster.address).opened(ProductRecipe()) as crew,
    ):
        work(crew, jobs, after=2, then=cluster.head_node.kill_raylet)


def test_errors_while_loading_name_the_machine(cluster: Any) -> None:
    with (
        pytest.raises(ModelError, match=r"^on .+: the folder 'nowhere' does not exist\."),
        RayPool(cluster.address).opened(ProductRecipe(fails="model")),
    ):
        pass
    with (
        pytest.raises(ClusterError, match=r"workers end while they load: worker .+ crashed"),
        RayPool(cluster.address).opened(ProductRecipe(fails="kill")),
    ):
        pass


@pytest.mark.parametrize("dies", [False, True])
def test_an_entry_of_the_cache_is_computed_by_one_machine(
    cluster: Any, tmp_path: Path, dies: bool
) -> None:
    log, dying = tmp_path / "log", tmp_path / "dying"
    if dies:
        dying.touch()
    with RayPool(cluster.address).opened(CachingRecipe(log, dying)) as crew:
        answers = []
        for _ in range(NODES):
            crew.submit(0)
        for event in crew.events():
            if isinstance(event, Answered):
                answers.append(event.answer)
            elif len({cache for cache, _, _ in answers}) < NODES:  # until both have worked
                crew.submit(len(answers))
    computed = log.read_text().split()
    assert computed == ["matrix", *(["matrix"] if dies else []), "texts"]
    assert {total for _, total, _ in answers} == {66.0}
    assert {cache for cache, _, _ in answers} == {str(tmp_path / f"cache-{n}") for n in (0, 1)}
    files = [sorted(each.glob("test-*/*[sn]")) for each in sorted(tmp_path.glob("cache-*"))]
    assert len(files) == NODES
    first, second = ([file.read_bytes() for file in each] for each in files)
    assert first == second
    assert len(first) == 2


def test_a_cluster_without_room_is_an_error(cluster: Any) -> None:
    with (
        pytest.raises(
            ClusterError, match="1 processor and 1 GPU for a worker: together they have 0"
        ),
        RayPool(cluster.address, gpus_per_worker=1).opened(ProductRecipe()),
    ):
        pass
    with (
        pytest.raises(ClusterError, match="no worker is left, and none could be started for 2 s"),
        RayPool(cluster.address, workers=1, gpus_per_worker=1, patience=2).opened(ProductRecipe()),
    ):
        pass
