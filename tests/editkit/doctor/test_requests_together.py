"""Forecasts count the requests that are edited at once, also of records with several edits."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from editkit import Config, EditorSpec, JointEditor, Requirements, hookimpl
from editkit.doctor.diagnose import PlannedEditor, diagnose
from editkit.regimes import Regime
from editkit.registry.models import local_folder
from editkit.registry.plugins import Registry

HERE = __name__
MB = 2**20


class Greedy(JointEditor[Config]):
    """Needs 100,000 MiB for each request of a joint edit, and 1,000 MiB for each other one."""

    def edit_jointly(self, model: Any, requests: Any) -> Any:
        raise NotImplementedError

    def requirements(self, shape: Any, *, requests: int, tokens: int) -> Requirements:
        return Requirements(memory=requests * MB * 1000)

    def joint_requirements(self, shape: Any, *, requests: int, tokens: int) -> Requirements:
        return Requirements(memory=requests * MB * 100_000)


@hookimpl
def editkit_editors() -> list[EditorSpec]:
    regimes = ("independent", "joint")
    return [
        EditorSpec("greedy", f"{HERE}:Greedy", "editkit:Config", "joint", regimes=regimes),
        EditorSpec("single", f"{HERE}:Greedy", "editkit:Config", "one by one"),
    ]


@pytest.mark.parametrize(
    ("editor", "regime", "edits", "expected"),
    [
        ("greedy", Regime(), 1, 20 * 1000),  # a batch of 20 records
        ("greedy", Regime(), 4, 4 * 100_000),  # the edits of one record
        ("greedy", Regime.joint(10), 1, 10 * 100_000),
        ("greedy", Regime.joint(10), 4, 40 * 100_000),
        ("single", Regime(), 4, 1000),
        ("single", Regime.joint(10), 4, 1000),
    ],
)
def test_requests_that_are_edited_together(
    editor: str, regime: Regime, edits: int, expected: int
) -> None:
    registry = Registry()
    registry.register(sys.modules[HERE], name="g", distribution="g", version="1")
    planned = PlannedEditor(registry.get("editor", editor), Config(), regimes=(regime,))
    folder = str(local_folder("atlas"))
    diagnosis = diagnose(registry, folder, [planned], requests=20, edits=edits)
    assert diagnosis.memory[editor].activations == expected * MB
