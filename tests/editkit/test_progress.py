"""Long work is counted, and shown to whoever listens."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from editkit import EditRequest, counting, make_editor, show_progress
from editkit.covariance.accumulate import accumulate
from editkit.covariance.bench import LoadedModel
from editkit.editing.generation import sampled_contexts
from editkit.progress import Counter, listening
from editkit.workers.pool import InProcess
from tests.listeners import Log
from tests.tiny import tiny

CAPITALS = {"France": "Lyon", "Spain": "Faro", "Italy": "Bonn", "Norway": "Oslo"}
REQUESTS = [EditRequest("The capital of {} is", *pair) for pair in CAPITALS.items()]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(work: Callable[[], None], stream: io.StringIO | None = None, **options: Any) -> str:
    stream = stream or io.StringIO()
    with show_progress(stream=stream, **options):
        work()
    return stream.getvalue()


# ---------------------------------------------------------------- counting


def test_a_listener_gets_every_count() -> None:
    log = Log()
    with listening(log), counting("outer", 3, unit="fact", done=1) as outer:
        outer()
        with counting("inner") as inner:
            inner(5)
        outer.to(1)  # behind already
        outer.to(3)
    assert log.events == [
        ("outer", 1, 3), ("outer", 2, 3), ("inner", 0, None), ("inner", 5, None), "end",
        ("outer", 3, 3), "end",
    ]  # fmt: skip


def test_an_exception_ends_the_work_and_the_listening() -> None:
    log = Log()
    with pytest.raises(KeyError), listening(log), counting("a", 2), counting("b", 2):
        raise KeyError
    assert log.events[2:] == ["end", "end"]
    with counting("unheard", 2) as advance:
        advance()
    assert len(log.events) == 4


@pytest.mark.parametrize("listener", [None, Log()])
def test_a_count_never_falls_whether_anybody_listens_or_not(listener: Log | None) -> None:
    with (
        listening(listener),
        counting("facts", 2, unit="fact") as advance,
        pytest.raises(ValueError, match="facts: cannot advance by -1 facts"),
    ):
        advance(-1)


def test_threads_advance_a_counter_but_their_own_work_is_silent() -> None:
    log = Log()

    def work(advance: Callable[[int], None]) -> None:
        with counting("in the thread", 1000) as own:
            for _ in range(1000):
                advance(1)
                own()

    with listening(log), counting("shared", 4000) as advance:
        threads = [threading.Thread(target=work, args=(advance,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert advance.done == 4000
    assert list(log.counters) == ["shared"]


# ---------------------------------------------------------------- the display


def test_nothing_is_shown_without_a_listener_or_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with counting("work", 2) as advance:
            advance()

    work()
    assert shown(work, quiet=True) == ""
    log = Log()
    with listening(log):
        assert shown(work, quiet=True) == ""
        assert log.events == []
        assert shown(work) == ""  # the listener that is set stays the only one
    assert len(log.events) == 3
    assert capfd.readouterr() == ("", "")


def long_work() -> None:
    with counting("editing", 2, unit="edit") as advance:
        for _ in range(2):
            with counting("short", 1) as short:
                short()
            with counting("second moment", 4000, unit="token") as tokens:
                tokens(1000)
                time.sleep(1.6)
                tokens(3000)
            advance()


@pytest.mark.slow
def test_lines_show_the_outermost_work_and_new_inner_work_of_over_a_second() -> None:
    lines = shown(long_work).splitlines()
    assert len(lines) == 2  # the same label again is due after 15 seconds only
    assert lines[0] == "0/2 edits: editing"
    assert lines[1].startswith("0/2 edits: editing; 1,000/4,000 tokens: second moment, ")
    assert lines[1].endswith(" s left")


@pytest.mark.slow
def test_a_terminal_gets_a_second_bar() -> None:
    text = shown(long_work, Terminal())
    assert "second moment:  25%" in text
    assert "editing: 100%" in text
    assert "short" not in text


def test_a_closed_stream_does_not_stop_the_work() -> None:
    stream = io.StringIO()
    stream.close()
    done = []

    def work() -> None:
        with counting("editing", 1) as advance:
            advance()
            done.append(True)

    with show_progress(stream=stream):
        work()
    assert done


def test_the_label_of_the_outermost_work_is_shown_when_it_changes() -> None:
    def work() -> None:
        with counting("preparing", 2, unit="edit") as advance:
            advance()
            advance.relabel("rome")

    assert shown(work).splitlines() == ["0/2 edits: preparing", "1/2 edits: rome"]
    finished = io.StringIO()
    with show_progress(stream=finished), counting("editing", 2, done=2):
        pass
    assert finished.getvalue() == ""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the seconds that have passed for progress."""
    now = [0.0]
    monkeypatch.setattr("editkit.progress.time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return lambda seconds: now.__setitem__(0, seconds)


def test_an_estimate_leaves_out_the_slow_start_and_waits_for_enough(
    clock: Callable[[float], None],
) -> None:
    rome = Counter("rome", 100, "edit", 0, Log())
    clock(60)  # the model is loaded
    rome(20)
    assert rome.estimate == "240 s left"
    rome.estimate_from_here(enough=40)
    clock(70)
    rome(20)
    assert str(rome) == "40/100 edits: rome"
    clock(80)
    rome(20)
    assert str(rome) == "60/100 edits: rome, 20 s left"


def test_the_same_line_is_not_shown_twice(clock: Callable[[float], None]) -> None:
    def work() -> None:
        with counting("starting workers", 60, unit="edit") as advance:
            for seconds in (20, 40, 60):  # each is due
                clock(seconds)
                advance.relabel("starting workers")
                time.sleep(0.6)

    stream = io.StringIO()
    assert shown(work, stream).splitlines() == ["0/60 edits: starting workers"]


@pytest.mark.parametrize(
    ("total", "done", "text"),
    [
        (1, 0, "0/1 edit: x"),
        (2, 1, "1/2 edits: x"),
        (None, 1, "1 edit: x"),
        (None, 0, "0 edits: x"),
    ],
)
def test_one_unit_is_singular(total: int | None, done: int, text: str) -> None:
    assert str(Counter("x", total, "edit", done, None)) == text


# ---------------------------------------------------------------- what counts


def test_second_moments_count_tokens() -> None:
    model = tiny("gpt2")
    texts = [f"The number is {n}." for n in range(200)]
    paths = [model.path(layer, "mlp_out") for layer in (0, 1)]
    log = Log()
    with listening(log), InProcess().opened(LoadedModel(model)) as crew:
        accumulate(crew, paths, texts, tokens=900)
    assert log.complete() == {"second moments of 2 modules"}


def test_sampled_contexts_count_texts() -> None:
    log = Log()
    with listening(log):
        sampled_contexts(tiny("gpt2"), [(2, 3), (1, 4)], top_k=5, seed=73_501)
    assert log.complete() == {"sampling contexts"}


@pytest.mark.parametrize(
    ("editor", "values", "labels"),
    [
        ("ft", {"layer": 0}, {"fine-tuning"}),
        ("ft-all", {}, {"training"}),
        ("lora", {}, {"training adapters"}),
        ("kn", {"steps": 2}, {"attributing to neurons"}),
        ("rome", {"layer": 0, "second_moment": False}, {"optimising values"}),
        ("ultraedit", {}, {"reading gradients"}),
    ],
)
def test_editors_count_to_the_total(editor: str, values: dict[str, Any], labels: set[str]) -> None:
    model = tiny("gpt2", seed=3)
    log = Log()
    with listening(log):
        make_editor(editor, model, **values).edit(model, REQUESTS)
    assert labels <= log.complete()


# ---------------------------------------------------------------- a run

SLOW = """
import time
from editkit import Config, Editor, EditorSpec, counting, hookimpl

class Slow(Editor[Config]):
    name = "slow"

    def prepare(self, model):
        with counting("a long preparation", 40, unit="batch") as advance:
            for _ in range(40):
                time.sleep(0.05)
                advance()

    def edit(self, model, requests):
        return [self.delta(model, request, {}) for request in requests]

@hookimpl
def editkit_editors():
    return [EditorSpec("slow", "slow_plugin:Slow", "editkit:Config", "takes its time")]
"""


@pytest.mark.slow
def test_a_run_shows_a_long_preparation_within_two_seconds(tmp_path: Path) -> None:
    (tmp_path / "slow_plugin.py").write_text(SLOW, encoding="utf-8")
    info = tmp_path / "slow-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[editkit]\nslow = slow_plugin\n")
    command = [
        *(sys.executable, "-m", "editkit", "run-benchmark", "--editor", "slow", "--limit", "2"),
        *("--no-mlflow", "--json", "--metrics", "efficacy"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    [line] = [line for line in done.stderr.splitlines() if "a long preparation" in line]
    head, inner = line.split("; ")
    assert head.startswith("0/2 edits: slow")
    assert 0 < int(inner.partition("/")[0]) < 40  # before the end of its two seconds
    assert json.loads(done.stdout)["cells"]
