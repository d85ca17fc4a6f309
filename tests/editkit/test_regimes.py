"""Regimes: how they are written, and how they cut facts into groups, steps and checkpoints."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit.regimes import INDEPENDENT, Regime


def test_what_a_benchmark_file_writes() -> None:
    assert Regime.parse("independent") == INDEPENDENT == Regime()
    assert Regime.parse({"joint": 5}) == Regime("joint", 5)
    sequence = Regime.parse({"sequential": 1000, "step": 10})
    assert sequence == Regime("sequential", 1000, 10, (10, 100, 1000))
    assert sequence.label == "sequential 1000 by 10"
    assert Regime.parse({"sequential": 7}).checkpoints == (1, 7)
    assert Regime.parse({"sequential": 9, "step": 3, "checkpoints": [6, 3]}).checkpoints == (
        3,
        6,
        9,
    )


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("joint", "expected independent, {joint: N}"),
        ({"joint": 0}, "joint is 0, expected a whole number from 1"),
        ({"joint": True}, "joint is True"),
        ({"joint": 2, "sequential": 3}, "expected independent"),
        ({"joint": 2, "step": 1}, "joint has the unknown option 'step', expected groups"),
        ({"sequential": 5, "step": 6}, "step is 6, expected at most the 5 facts"),
        ({"sequential": 5, "checkpoints": [6]}, "checkpoint 6 is beyond the 5 facts"),
        ({"sequential": 9, "step": 2, "checkpoints": [3]}, "the next is 4"),
        ({"sequential": 9, "checkpoints": "3"}, "expected a list of numbers"),
        ({}, "expected independent"),
        (3, "got 3"),
    ],
)
def test_mistakes_are_explained(value: Any, part: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        Regime.parse(value)
    assert part in str(caught.value)


@given(
    n=st.integers(1, 200),
    facts=st.integers(1, 60),
    step=st.integers(1, 60),
    groups=st.none() | st.integers(1, 5),
)
def test_groups_steps_and_checkpoints_cover_every_fact_once(
    n: int, facts: int, step: int, groups: int | None
) -> None:
    regime = Regime.sequential(facts, step=min(step, facts), groups=groups)
    assert Regime.from_dict(json.loads(json.dumps(regime.to_dict()))) == regime
    cut = regime.groups_of(range(n))
    wanted = n if groups is None else min(n, groups * facts)
    assert [i for group in cut for i in group] == list(range(wanted))
    for group in cut:
        steps = list(regime.steps_of(len(group)))
        assert [i for start, end in steps for i in range(start, end)] == list(range(len(group)))
        marks = regime.checkpoints_of(len(group))
        assert marks[-1] == len(group)
        assert set(marks) <= {end for _, end in steps}
        assert list(marks) == sorted(set(marks))
