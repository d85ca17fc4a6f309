"""Sequences and joint edits survive interruptions, damage, and facts that fail, to the bit."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from editkit import PluginError, load_delta
from editkit.benchmark import bench, sequence_files
from editkit.benchmark.completeness import is_complete
from editkit.benchmark.merge import merge
from editkit.benchmark.plan import Plan, make_plan
from editkit.benchmark.runner import run_plan
from editkit.benchmark.sequence_files import SequenceFiles
from editkit.benchmark.spec import parse_benchmark
from editkit.benchmark.store import Store, model_rows_of, rows_at, runs_in
from editkit.editing import delta_files
from editkit.errors import StoreError
from editkit.registry.plugins import Registry
from editkit.results import STORE_FILE, Row
from tests.editkit.benchmark import fakes, sequence_plugin
from tests.editkit.benchmark.sequence_plugin import STEPS
from tests.tiny import tiny

SEQUENCE = "{sequential: 6, step: 2, checkpoints: [2, 4]}"
JOINT = "{joint: 6}"
BENCHMARK = """
name: survival
model: tiny
dataset: {dataset}
metrics: [loss]
model_metrics: [size]
batch: 4
limit: {limit}
editors:
  - name: {editor}
    config: {config}
edits: {edits}
"""


class Killed(BaseException):
    """What a kill looks like in this process: nothing catches it."""


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The plugin of these tests, and a tiny model under every name."""
    model = tiny("gpt2")
    monkeypatch.setattr(bench, "load_model_of", lambda choice: model)
    registry = Registry()
    registry.register(sequence_plugin, name="towns", distribution="towns", version="1.0")
    STEPS.clear()
    return registry


@pytest.fixture
def planned(world: Registry) -> Callable[..., Plan]:
    def make(
        edits: str = SEQUENCE,
        editor: str = "stateful",
        *,
        config: str = "{}",
        limit: int = 6,
        dataset: str = "towns",
        shard: tuple[int, int] = (1, 1),
    ) -> Plan:
        text = BENCHMARK.format(
            edits=edits, editor=editor, config=config, limit=limit, dataset=dataset
        )
        lookups = fakes.lookups(tiny("gpt2").fingerprint)
        benchmark = parse_benchmark(text, place="survival.yaml")
        return make_plan(benchmark, world, shard=shard, **lookups)

    return make


@pytest.fixture
def run(world: Registry) -> Callable[..., Any]:
    def execute(plan: Plan, out: Path, **options: Any) -> Any:
        return run_plan(plan, out, world, quiet=True, tracking=False, **options).run

    return execute


def rows(run: Any) -> list[Any]:
    """All rows of records and models, at all checkpoints, without times."""
    [cell] = run.cells
    assert is_complete(run, cell)
    every: list[Any] = [row for own in rows_at(run, cell).values() for row in own]
    every += model_rows_of(run, cell)
    timeless: dict[str, Any] = {"times": {}, "completed_at": 0.0}
    return [
        dataclasses.replace(row, **timeless, **{"peak_rss_mb": 0.0} if isinstance(row, Row) else {})
        for row in every
    ]


def files(out: Path) -> dict[str, Any]:
    """Names of the files of sequences, and the content of deltas."""
    contents: dict[str, Any] = {}
    for path in (out / "sequences").rglob("*.*"):
        delta = load_delta(path) if path.name.startswith("delta") else None
        contents[path.name] = delta and (delta.digest(), delta.requests, delta.config)
    return contents


# ---------------------------------------------------------------- interruptions


class Interrupter:
    """Raises before or after the n-th write of a run; counts writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: tuple[int, str] | None = None
        self.writes: list[str] = []
        for owner, name in (
            (SequenceFiles, "_append"),
            (SequenceFiles, "_keep_only"),
            (delta_files, "save_delta"),
            (sequence_files, "write_checkpoint"),
            (Store, "put_rows"),
            (Store, "discard"),
            (Path, "unlink"),
        ):
            monkeypatch.setattr(owner, name, self._watched(name, getattr(owner, name)))

    def _watched(self, name: str, write: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            own = name != "unlink" or "sequences" in str(arguments[0])
            number = len(self.writes)
            if own:
                self.writes.append(name)
                self._kill(number, "before")
            if name == "_append" and self.at == (number, "amid"):
                write(*arguments, **options)
                path = arguments[0].folder / "facts.jsonl"
                path.write_bytes(path.read_bytes()[:-20])
                raise Killed
            result = write(*arguments, **options)
            if own:
                self._kill(number, "after")
            return result

        return watched

    def _kill(self, number: int, moment: str) -> None:
        if self.at == (number, moment):
            raise Killed


@pytest.mark.parametrize(
    ("edits", "editor", "dataset", "every"),
    [
        pytest.param(SEQUENCE, "stateful", "towns", 12, id="a few"),
        pytest.param(SEQUENCE, "one-by-one", "chains", 18, id="records with several edits"),
        pytest.param(SEQUENCE, "stateful", "towns", 1, id="with a state", marks=pytest.mark.slow),
        pytest.param(JOINT, "one-by-one", "towns", 1, id="joint", marks=pytest.mark.slow),
    ],
)
def test_an_interruption_before_and_after_every_write_changes_no_bit(
    planned: Any,
    run: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    edits: str,
    editor: str,
    dataset: str,
    every: int,
) -> None:
    plan = planned(edits, editor, dataset=dataset)
    interrupter = Interrupter(monkeypatch)
    whole, whole_files = rows(run(plan, tmp_path / "whole")), files(tmp_path / "whole")
    steps, writes = len(STEPS), list(interrupter.writes)
    repeated = 1 if dataset == "towns" else 2  # at most the edits of one record
    assert {"_append", "save_delta", "write_checkpoint", "put_rows", "unlink"} <= set(writes)
    moments = [(n, moment) for n in range(len(writes)) for moment in ("before", "after")]
    moments += [(n, "amid") for n, name in enumerate(writes) if name == "_append"]
    for number, moment in moments[::every]:
        out = tmp_path / f"{number}-{moment}"
        STEPS.clear()
        interrupter.writes, interrupter.at = [], (number, moment)
        with pytest.raises(Killed):
            run(plan, out)
        interrupter.at = None
        assert rows(run(plan, out)) == whole, (number, moment)
        assert files(out) == whole_files, (number, moment)
        assert len(STEPS) <= steps + repeated, (number, moment)
        shutil.rmtree(out)


@pytest.fixture
def halfway(planned: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Plan]:
    """Leaves a sequence that was killed after its second step."""

    def make(out: Path) -> Plan:
        plan: Plan = planned()
        with monkeypatch.context() as patch:
            interrupter = Interrupter(patch)
            interrupter.at = (_nth("_keep_only", 2, plan, run, interrupter, out), "after")
            with pytest.raises(Killed):
                run(plan, out)
        STEPS.clear()
        return plan

    return make


def _nth(name: str, n: int, plan: Plan, run: Any, interrupter: Interrupter, out: Path) -> int:
    run(plan, out.with_name("counted"))
    shutil.rmtree(out.with_name("counted"))
    places = [i for i, write in enumerate(interrupter.writes) if write == name]
    interrupter.writes = []
    return places[n - 1]


def damaged(path: Path) -> Iterator[Callable[[], None]]:
    """Ways to damage a file."""
    content = path.read_bytes()
    for place in (0, len(content) // 2, len(content) - 2):
        changed = bytearray(content)
        changed[place] ^= 1
        yield lambda changed=changed: path.write_bytes(changed) and None
    yield lambda: path.write_bytes(content[: len(content) // 2]) and None
    yield lambda: path.write_bytes(b"") and None


def test_damaged_files_start_the_sequence_over_to_the_same_bits(
    halfway: Any, planned: Any, run: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = rows(run(planned(), tmp_path / "whole"))
    plan = halfway(tmp_path / "half")
    names = sorted(files(tmp_path / "half"))
    assert names == ["delta-4.safetensors", "facts.jsonl", "state.safetensors"]
    for name in names:
        [original] = (tmp_path / "half").rglob(name)
        for number in range(5):
            out = tmp_path / f"{name}-{number}"
            shutil.copytree(tmp_path / "half", out)
            list(damaged(out / original.relative_to(tmp_path / "half")))[number]()
            STEPS.clear()
            caplog.clear()
            assert rows(run(plan, out)) == whole, (name, number)
            assert "The sequence starts over." in caplog.text, (name, number)
            assert len(STEPS) == 3
    STEPS.clear()
    assert rows(run(plan, tmp_path / "half")) == whole  # undamaged, it resumes
    assert len(STEPS) == 1


@pytest.mark.parametrize("table", ["history", "models", "rows"])
def test_damaged_rows_are_recomputed(
    planned: Any, run: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    plan = planned()
    whole = rows(run(plan, tmp_path / "out"))
    with Store(tmp_path / "out" / STORE_FILE) as store:
        store._connection.execute(
            f"UPDATE {table} SET payload = replace(payload, '.', ',') WHERE rowid = 2"
        )
    assert rows(run(plan, tmp_path / "out")) == whole
    assert "They will be recomputed." in caplog.text
    STEPS.clear()
    run(plan, tmp_path / "out", fresh=True)
    assert len(STEPS) == 3


# ---------------------------------------------------------------- kill -9

LOGGED = """
from editkit import EditorSpec, hookimpl
from editkit_plugins.finetune.editor import FineTuneEditor

class Logged(FineTuneEditor):
    name = "logged"

    def step(self, model, requests, state):
        with open("steps.log", "a") as log:
            log.write(f"{[request.subject for request in requests]}\\n")
        return super().step(model, requests, state)

@hookimpl
def editkit_editors():
    config = "editkit_plugins.finetune.config:FineTuneConfig"
    return [EditorSpec("logged", "logged_plugin:Logged", config, "ft that counts its steps")]
"""
FACTS = 30
COMMAND = [
    *(sys.executable, "-m", "editkit", "run-benchmark", "--editor", "logged", "--json", "--quiet"),
    *("--set", "editors.logged.layer=2", "--set", "editors.logged.steps=8", "--no-mlflow"),
    *("--limit", str(FACTS), "--sequential", str(FACTS), "--checkpoints", "1,10,20"),
    *("--metrics", "efficacy,paraphrase", "--model-metrics", "change-norm"),
]


@pytest.mark.slow
def test_ten_kills_in_a_sequence_lose_one_step_each_at_most(tmp_path: Path) -> None:
    (tmp_path / "logged_plugin.py").write_text(LOGGED, encoding="utf-8")
    fakes.write_distribution(tmp_path, "logged", {"logged": "logged_plugin"})
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    log = tmp_path / "steps.log"

    def steps() -> int:
        return len(log.read_text().splitlines()) if log.exists() else 0

    def start(out: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, "--out", out],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=tmp_path,
        )

    def result(out: str, process: subprocess.Popen[str]) -> tuple[Any, Any]:
        """The table without times, and the digest of the delta at each checkpoint."""
        cells = json.loads(process.communicate()[0])["cells"]
        assert process.returncode == 0
        [run] = runs_in(tmp_path / out)
        digests = [row.delta for row in model_rows_of(run, run.cells[0])]
        table = [
            {key: cell[key] for key in ("fingerprint", "records", "metrics")} for cell in cells
        ]
        return table, digests

    whole = result("whole", start("whole"))
    assert steps() == FACTS
    log.unlink()
    rng = random.Random(0)
    for kill in range(10):
        process = start("killed")
        while steps() < 2 * (kill + 1) + kill and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        assert process.poll() is None
        process.kill()
        process.communicate()
    assert result("killed", start("killed")) == whole
    assert FACTS <= steps() <= FACTS + 10
    [path] = (tmp_path / "killed" / "sequences").rglob("*.*")
    assert load_delta(path).digest() == whole[1][-1]


# ---------------------------------------------------------------- facts that fail


@pytest.mark.parametrize("edits", [SEQUENCE, JOINT])
@pytest.mark.parametrize("editor", ["stateful", "one-by-one"])
@pytest.mark.parametrize("flaw", ["fail_on", "nan_on"])
def test_a_fact_that_fails_leaves_the_others(
    planned: Any, run: Any, tmp_path: Path, edits: str, editor: str, flaw: str
) -> None:
    config = f'{{{flaw}: ["Tower 0", "Tower 3"]}}'
    finished = run(planned(edits, editor, config=config), tmp_path / "out")
    last = [row for row in rows(finished) if isinstance(row, Row)]
    by_case = {row.case_id: row for row in last if row.checkpoint in (0, 6)}
    assert {case: row.status for case, row in by_case.items()} == {
        case: "failed" if case in (0, 3) else "done" for case in range(6)
    }
    reason = "is not to my" if flaw == "fail_on" else "not finite"
    assert all(reason in by_case[case].error for case in (0, 3))
    [path] = (tmp_path / "out" / "sequences").rglob("delta-6.safetensors")
    written = load_delta(path)
    assert [r.subject for r in written.requests] == [f"Tower {i}" for i in (1, 2, 4, 5)]
    assert written.digest() in {row.delta for row in model_rows_of(finished, finished.cells[0])}


def test_a_sequence_of_failures_ends_with_an_empty_edit(
    planned: Any, run: Any, tmp_path: Path
) -> None:
    config = '{fail_on: ["Tower 0", "Tower 1", "Tower 2"]}'
    edits = "{sequential: 3, checkpoints: [1]}"
    finished = run(planned(edits, "one-by-one", config=config, limit=3), tmp_path / "out")
    statuses = [row.status for row in rows(finished) if isinstance(row, Row)]
    assert statuses == ["failed"] * 4
    assert {row.scores["size"] for row in model_rows_of(finished, finished.cells[0])} == {0.0}


def test_a_state_without_tensors_is_an_error_that_names_the_editor(
    planned: Any, run: Any, tmp_path: Path
) -> None:
    with pytest.raises(PluginError, match=r"editor 'bad-state' of towns 1.0 returned the state"):
        run(planned(editor="bad-state"), tmp_path / "out")


# ---------------------------------------------------------------- shards and merging


def test_shards_of_groups_merge_into_the_whole(planned: Any, run: Any, tmp_path: Path) -> None:
    edits = "{sequential: 4, step: 2, checkpoints: [2]}"
    whole = run(planned(edits, limit=12), tmp_path / "whole")
    for part in (1, 2, 3):
        run(planned(edits, limit=12, shard=(part, 3)), tmp_path / f"part{part}")
        with (
            Store(tmp_path / "all" / STORE_FILE) as ours,
            Store(tmp_path / f"part{part}" / STORE_FILE, read_only=True) as theirs,
        ):
            merged = merge(ours, theirs)
            assert (len(merged.rows), merged.added, merged.compared) == (4, 8, 0)
            again = merge(ours, theirs)
            assert (len(again.rows), again.added, again.compared) == (0, 0, 8)
            assert again.largest is None
    assert rows(dataclasses.replace(whole, out=tmp_path / "all")) == rows(whole)


def test_rows_from_another_folder_leave_no_unfinished_files(
    halfway: Any, planned: Any, run: Any, tmp_path: Path
) -> None:
    plan, out = halfway(tmp_path / "half"), tmp_path / "half"
    whole = run(planned(), tmp_path / "whole")
    with (
        Store(out / STORE_FILE) as ours,
        Store(tmp_path / "whole" / STORE_FILE, read_only=True) as theirs,
    ):
        merge(ours, theirs)
    STEPS.clear()
    assert rows(run(plan, out)) == rows(whole)
    assert not STEPS
    assert not files(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("history", 2, "scores", {"loss": 9.0}), "case 1 at 2 facts of editor 'stateful'.* loss"),
        (("models", 2, "scores", {"size": 9.0}), "model 0 at 2 facts of editor 'stateful'.* size"),
        (("models", 6, "delta", "other"), "model 0 at 6 facts of editor 'stateful'.* its delta"),
        (("models", 6, "errors", {"size": "none"}), "model 0 .* error of size"),
    ],
)
def test_rows_of_all_tables_must_agree(
    planned: Any, run: Any, tmp_path: Path, change: tuple[str, int, str, Any], message: str
) -> None:
    table, checkpoint, field, value = change
    finished = run(planned(), tmp_path / "ours")
    shutil.copytree(tmp_path / "ours", tmp_path / "theirs")
    fingerprint = finished.cells[0].fingerprint
    with Store(tmp_path / "theirs" / STORE_FILE) as theirs:
        if table == "history":
            [row] = [r for r in theirs.history(fingerprint) if (r.checkpoint, r.place) == (2, 2)]
            theirs.put_rows(fingerprint, [dataclasses.replace(row, scores=value)], ended=False)
        else:
            [model] = [m for m in theirs.models(fingerprint) if m.checkpoint == checkpoint]
            theirs.put_rows(fingerprint, [], [dataclasses.replace(model, **{field: value})])
    with (
        Store(tmp_path / "ours" / STORE_FILE) as ours,
        Store(tmp_path / "theirs" / STORE_FILE, read_only=True) as theirs,
        pytest.raises(StoreError, match=message),
    ):
        merge(ours, theirs)
