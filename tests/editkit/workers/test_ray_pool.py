"""Workers on a local Ray cluster: answers, errors, lost workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from editkit.errors import EditkitError, ModelError
from editkit.workers.pool import Answered, Crew, InProcess, Lost
from editkit.workers.ray_pool import RayPool, WorkerError
from tests.editkit.workers import needs_ray
from tests.editkit.workers.benches import Job, ProductRecipe

pytestmark = needs_ray

Answers = dict[tuple[int, int], bytes]


def done(crew: Crew[Job, Any], jobs: Sequence[Job]) -> tuple[Answers, list[Lost]]:
    """The answers to all jobs; lost ones are submitted again."""
    answers: Answers = {}
    lost = []
    submitted = {crew.submit(job): job for job in jobs}
    for event in crew.events():
        if isinstance(event, Answered):
            number, i, value = event.answer
            assert submitted[event.job].number == number
            answers[number, i] = value
        elif isinstance(event, Lost):
            lost.append(event)
            submitted[crew.submit(submitted[event.job])] = submitted[event.job]
    return answers, lost


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew[Job, Any]]:
    with RayPool("local", workers=2).opened(ProductRecipe()) as crew:
        yield crew


@pytest.fixture(scope="module")
def expected() -> Answers:
    with InProcess().opened(ProductRecipe()) as alone:
        return done(alone, [Job(number) for number in range(12)])[0]


def test_answers_are_those_of_this_process(crew: Crew[Job, Any], expected: Answers) -> None:
    answers, lost = done(crew, [Job(number) for number in range(12)])
    assert answers == expected
    assert not lost


def test_workers_share_the_processors(crew: Crew[Job, Any]) -> None:
    assert crew.workers == 2
    assert crew.about["threads"] == vars(crew)["_placement"].cpus


def test_an_answer_that_cannot_be_sent_is_an_error(crew: Crew[Job, Any]) -> None:
    with pytest.raises(WorkerError, match=r"TypeError: .*pickle.* \(on worker "):
        done(crew, [Job(0, action="unsendable")])


def test_a_killed_worker_is_replaced(
    crew: Crew[Job, Any], expected: Answers, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    jobs = [Job(number) for number in range(12)]
    jobs[3] = Job(3, action="kill", flag=flag)
    answers, lost = done(crew, jobs)
    assert answers == expected
    assert len(lost) == 1
    assert "crashed or was killed" in lost[0].reason
    assert not lost[0].out_of_memory
    assert done(crew, [Job(number) for number in range(12)])[0] == expected


def test_a_worker_that_logs_is_heard_once(
    crew: Crew[Job, Any], caplog: pytest.LogCaptureFixture
) -> None:
    done(crew, [Job(number, action="warn") for number in range(4)])
    assert [record.message for record in caplog.records] == ["the water is cold"]


def test_errors_arrive_as_they_were_raised(crew: Crew[Job, Any]) -> None:
    def raised(action: str) -> BaseException:
        with pytest.raises(BaseException) as caught:
            done(crew, [Job(0, action=action)])
        return caught.value

    error = raised("ours")
    assert isinstance(error, ModelError)
    assert (error.message, error.hint) == ("the model melted.", "Cool it.")
    assert isinstance(raised("interrupt"), KeyboardInterrupt)
    assert isinstance(raised("memory"), MemoryError)
    unexpected = raised("fly")
    assert isinstance(unexpected, WorkerError)
    assert not isinstance(unexpected, EditkitError)
    assert "ValueError: cannot fly (on worker " in str(unexpected)
    assert "in _act" in str(unexpected.__cause__)
