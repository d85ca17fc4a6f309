"""Observers cannot change a run: not its rows, not its document, not its exit code."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from editkit import TrackingError
from editkit.benchmark.aggregate import DOCUMENT_KEYS
from editkit.benchmark.completeness import is_complete
from editkit.benchmark.observers import Observers, copied
from editkit.benchmark.store import requests_of, rows_of, runs_in
from editkit.data_types import Point, Report
from editkit.registry.plugins import default_registry
from tests.editkit.benchmark.test_runner import Cli, observer

HOOKS = ("run_started", "record_finished", "cell_finished", "run_finished")
FLAGS = ("run-benchmark", "small", "--editor", "one", "--set", "editors.one.fail_on=[3]")


def of_no_clock(document: Any) -> Any:
    """A document without what a stopwatch says."""
    return {
        **document,
        "cells": [
            {key: value for key, value in cell.items() if key not in ("time", "memory")}
            for cell in document["cells"]
        ],
    }


def stored(out: Path) -> list[Any]:
    """Everything in the store that does not come from a clock."""
    return [
        (
            run.describe(cell),
            requests_of(run),
            [
                (row.case_id, row.status, row.scores, row.details, row.notes, row.texts, row.error)
                for row in rows_of(run, cell)
            ],
        )
        for run in runs_in(out)
        for cell in run.cells
    ]


@pytest.fixture
def alone(fake_world: Path, tmp_path: Path, editkit: Cli) -> tuple[int, str, list[Any]]:
    """Exit code, document and store of the run that nobody watches."""
    code, text, _ = editkit(*FLAGS, "--json", "--out", tmp_path / "alone")
    return code, json.dumps(of_no_clock(json.loads(text))), stored(tmp_path / "alone")


@pytest.fixture
def watched(
    alone: tuple[int, str, list[Any]], tmp_path: Path, editkit: Cli
) -> Callable[..., tuple[Any, str]]:
    """Runs the same with a hostile plugin beside it, and checks that all is the same."""

    def run(added: Any = None, **hooks: Any) -> tuple[Any, str]:
        out = tmp_path / "watched"
        default_registry().register(observer(**hooks), name="hostile", distribution="evil")
        code, text, err = editkit(*FLAGS, "--json", "--out", out)
        document = json.loads(text)
        extra = {key: document.pop(key) for key in list(document) if key not in DOCUMENT_KEYS}
        assert extra == (added or {})
        assert (code, json.dumps(of_no_clock(document)), stored(out)) == alone
        return document, err

    return run


# ---------------------------------------------------------------- what a hook raises


class OfMyOwn(BaseException):
    """Of no usual class."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit(7)


class Loud(TrackingError):
    def __init__(self) -> None:
        """Sets nothing."""


def deeper(n: int = 0) -> int:
    return deeper(n + 1) + 1


def raising(error: Any) -> Callable[[], None]:
    def hook() -> None:
        raise error

    return hook


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    "error",
    [
        SystemExit(0),
        KeyboardInterrupt,
        GeneratorExit,
        OfMyOwn,
        Unspeakable,
        OSError("a\nb"),
        deeper,
    ],
)
def test_whatever_a_hook_raises_is_one_warning(watched: Any, hook: str, error: Any) -> None:
    _, err = watched(**{hook: deeper_hook if error is deeper else raising(error)})
    assert err.count("warning: plugin 'hostile' (evil 0) failed in editkit_" + hook) == 1
    assert "is not called again" in err
    assert "Traceback" not in err


def deeper_hook() -> None:
    deeper()


def test_entries_of_observers_contain_no_secrets(watched: Any) -> None:
    added = {"at": ["http://u:SEC@RET@h/?token=SECRET"], "password": "SECRET", "n": 1}
    shown = {"at": ["http://***@h/?token=***"], "password": "***", "n": 1}
    watched({"hostile": shown}, run_finished=lambda: {"hostile": added})


def test_the_users_ctrl_c_in_a_hook_ends_the_run(
    fake_world: Path, tmp_path: Path, editkit: Cli
) -> None:
    def swallow() -> None:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGINT)

    default_registry().register(observer(record_finished=swallow), name="hostile")
    code, _, err = editkit(*FLAGS, "--out", tmp_path / "out")
    assert code == 130
    assert "5 rows are stored" in err  # the first batch


def test_a_tracking_error_of_any_shape_is_reported(
    fake_world: Path, tmp_path: Path, editkit: Cli
) -> None:
    default_registry().register(observer(run_finished=raising(Loud())), name="hostile")
    code, text, err = editkit(*FLAGS, "--json", "--out", tmp_path)
    assert code == 4
    assert json.loads(text)["schema"] == 1
    assert "error: Loud" in err


# ---------------------------------------------------------------- what a hook answers

cycle: dict[str, Any] = {}
cycle["cycle"] = cycle
deep: list[Any] = []
for _ in range(100_000):
    deep = [deep]


class Trap(dict):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[str]:
        raise KeyboardInterrupt

    keys = items = __iter__  # type: ignore[assignment]


@pytest.mark.parametrize(
    "answer",
    [
        7,
        "text",
        ["a list"],
        True,
        object(),
        {"x": math.nan},
        {"x": [1, {"y": -math.inf}]},
        {"x": object()},
        {"x": {1, 2}},
        {"x": b"bytes"},
        {"x": Path("p")},
        {3: "x"},
        {None: 1},
        {"x": {(1, 2): 3}},
        cycle,
        {"x": deep},
        Trap(a=1),
        {"x": types.MappingProxyType({})},
    ],
)
def test_an_answer_that_json_cannot_represent_is_refused(watched: Any, answer: Any) -> None:
    _, err = watched(run_finished=lambda: answer)
    assert err.count("plugin 'hostile' (evil 0) failed in editkit_run_finished") == 1
    assert len(err) < 1000


@pytest.mark.parametrize("key", sorted(DOCUMENT_KEYS))
def test_answers_cannot_use_reserved_keys(watched: Any, key: str) -> None:
    _, err = watched({"mine": [1, 2]}, run_finished=lambda: {key: "changed", "mine": (1, 2)})
    assert f"ignored the key '{key}'" in err
    assert "in editkit_run_finished: it belongs to editkit." in err


def test_our_keys_are_all_of_the_document(watched: Any) -> None:
    document, _ = watched()
    assert set(document) == DOCUMENT_KEYS


def test_an_answer_is_copied_when_it_is_given(watched: Any) -> None:
    answer: dict[str, Any] = {"x": [1]}
    watched({"x": [1]}, run_finished=lambda: answer)
    answer["x"].append(math.nan)


def test_the_first_of_two_plugins_keeps_its_key(watched: Any) -> None:
    default_registry().register(observer(run_finished=lambda: {"x": 1}), name="first")
    _, err = watched({"x": 1}, run_finished=lambda: {"x": 2})
    assert "ignored the key 'x' of plugin 'hostile' (evil 0) in editkit_run_finished" in err


# ---------------------------------------------------------------- what a hook changes


def spoil(value: Any, depth: int = 0) -> None:
    """Change everything that can be reached: mappings, lists, and fields of frozen classes."""
    if depth > 6:
        return
    if isinstance(value, dict):
        for item in list(value.values()):
            spoil(item, depth + 1)
        dict.clear(value)
        dict.__setitem__(value, "spoilt", math.nan)
    elif isinstance(value, list):
        for item in value:
            spoil(item, depth + 1)
        value[:] = ["spoilt"]
    elif isinstance(value, tuple):
        for item in value:
            spoil(item, depth + 1)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            spoil(getattr(value, name), depth + 1)
            object.__setattr__(value, name, "spoilt")


def test_changing_the_arguments_of_a_hook_has_no_effect(watched: Any) -> None:
    seen: list[Any] = []
    other = observer(
        record_finished=lambda run, cell, row: seen.append(
            (run.benchmark, cell.editor, row.case_id)
        ),
        cell_finished=lambda run, cell: seen.append((run.model["name"], is_complete(run, cell))),
    )
    default_registry().register(other, name="a later plugin")
    watched(
        run_started=lambda run: spoil(run),
        record_finished=lambda run, cell, row: [spoil(each) for each in (row, cell, run)],
        cell_finished=lambda run, cell: [spoil(each) for each in (cell, run)],
        run_finished=lambda run: spoil(run),
    )
    assert len(seen) == 24
    assert seen[0] == ("small", "one", 1000)
    assert seen[-1] == ("tiny", True)


def test_the_process_of_the_next_record_is_the_same(watched: Any) -> None:
    """The editor of this world draws from the global generator, in the current folder."""
    import random

    def unsettle() -> None:
        random.seed(0)
        os.chdir("/")
        os.environ["EDITKIT_DISABLE_PLUGINS"] = ""
        print('{"a second": "document"}')
        sys.stdout.flush()

    _, err = watched(**dict.fromkeys(HOOKS, unsettle))
    assert err.count("a second") == 26


# ---------------------------------------------------------------- reports


def report(out: Path) -> Report:
    curves = {"loss": [Point(0, 1.0, 0.0)]}
    return Report(out, "training", "r", "f", 0.0, None, {"lr": [0.1]}, {"a": 1.0}, curves=curves)


def test_reports_are_copies_and_answers_are_checked(
    fake_world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from editkit.benchmark.observers import publish

    seen: list[Any] = []

    def hostile(report: Report) -> Any:
        seen.append(report.params["lr"])
        spoil(report)
        return {"failed": "always", "x": 1}

    registry = default_registry()
    registry.register(observer(reported=hostile), name="hostile")
    registry.register(observer(reported=lambda report: {"lr": report.params["lr"]}), name="other")
    original = report(tmp_path)
    assert publish(original) == {"x": 1, "lr": [0.1]}
    assert original == report(tmp_path)
    assert "in editkit_reported: it belongs to editkit." in caplog.text


def test_a_hook_that_publishes_a_report_does_not_recurse(fake_world: Path, tmp_path: Path) -> None:
    from editkit.benchmark.observers import publish

    calls: list[str] = []

    def again(report: Report) -> None:
        calls.append("again")
        publish(report)

    registry = default_registry()
    registry.register(observer(reported=again), name="again")
    registry.register(observer(reported=lambda: calls.append("other")), name="other")
    publish(report(tmp_path))
    assert calls == ["again", "other", "other"]


def test_objects_that_cannot_be_copied_are_shared_in_a_copied_structure(tmp_path: Path) -> None:
    import threading

    lock = threading.Lock()
    params = {"lock": lock, "list": [1], "view": types.MappingProxyType({"a": [1]})}
    original = Report(tmp_path, "k", "n", "f", 0.0, None, params)
    twin = copied(original)
    twin.params["list"].append(2)
    twin.params["view"]["a"].append(2)
    assert original.params["list"] == [1]
    assert original.params["view"]["a"] == [1]
    assert twin.params["lock"] is lock


def test_plugins_without_observers_cause_no_copies(fake_world: Path, tmp_path: Path) -> None:
    class Uncopyable:
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("copied for nobody")

    assert Observers(default_registry()).reported(Uncopyable()) == {}  # type: ignore[arg-type]
