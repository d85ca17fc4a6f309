"""A killed process or a full disk leaves a ledger as it was before the action, or as after it."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from editkit import Ledger, LedgerError, Patch
from tests.editkit.patches.ledgers import (
    Killed,
    breaking,
    contents,
    copied,
    patches_for,
    save_tiny,
    served,
)

Action = Callable[[Ledger, list[Patch]], object]
ACTIONS: dict[str, Action] = {
    "apply": lambda ledger, patches: ledger.apply([patches[2], patches[3]], by="Bob"),
    "revert": lambda ledger, patches: ledger.revert(1, by="Bob"),
    "again": lambda ledger, patches: ledger.apply(patches[1], by="Bob"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def patches(base: Path) -> list[Patch]:
    return patches_for(base, 5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, base: Path, patches: list[Patch]) -> Ledger:
    """A ledger with patch 1 applied and patch 2 reverted."""
    ledger = Ledger.create(tmp_path_factory.mktemp("ledger"), base, patches[:2], by="Ann")
    ledger.revert(2, by="Ann")
    return ledger


def summary(ledger: Ledger) -> tuple[object, ...]:
    """What a reader sees, without times."""
    log = [(line.by, line.action, line.number) for line in ledger.log()]
    return log, [entry.number for entry in ledger.applied], served(ledger)


def leftovers(ledger: Ledger) -> list[str]:
    """Files and folders that a ledger at rest does not have."""
    name = ledger.model.name
    expected = {
        *(".lock", "ledger.json", "log.jsonl", "model", "patches", "versions", "versions/" + name),
        f"versions/{name}.json",
        *(f"patches/{entry.line.file}" for entry in ledger.entries),
    }
    paths = [path for path in ledger.folder.rglob("*") if ledger.model not in path.parents]
    return sorted({str(path.relative_to(ledger.folder)) for path in paths} - expected)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def operations(
    made: Ledger, patches: list[Patch], folder: Path, act: Action, error: BaseException
) -> int:
    """How many operations an action does that the error can break."""
    ledger = copied(made, folder)
    with breaking(ledger.folder, 10**6, error) as counter:
        act(ledger, patches)
    return counter.count


def kill(ledger: Ledger, patches: list[Patch], act: Action, operation: int) -> None:
    """Let an action die at an operation."""
    with breaking(ledger.folder, operation, Killed()), pytest.raises(Killed):
        act(ledger, patches)


@pytest.mark.parametrize(
    ("action", "sample"),
    [("apply", True), *(pytest.param(each, False, marks=pytest.mark.slow) for each in ACTIONS)],
)
def test_a_kill_at_any_file_operation_leaves_the_state_before_or_after(
    made: Ledger, patches: list[Patch], tmp_path: Path, action: str, sample: bool
) -> None:
    act = ACTIONS[action]
    before = summary(made)
    done = copied(made, tmp_path / "done")
    act(done, patches)
    after = summary(done)
    total = operations(made, patches, tmp_path / "ledger", act, Killed())
    every = list(range(1, total + 1))
    chosen = every[::3] if sample else every
    outcomes = []
    for operation in chosen:
        ledger = copied(made, tmp_path / "ledger")
        kill(ledger, patches, act, operation)
        now = summary(ledger)  # a reader, before anything is cleaned up
        assert now in (before, after), f"operation {operation} of {total}"
        outcomes.append(now == after)
        with ledger._files.alone():  # what every action begins with
            pass
        assert summary(ledger) == now
        assert leftovers(ledger) == []
        assert ledger.check() == []
        if now == before and not sample:
            act(ledger, patches)
            assert summary(ledger) == after
    assert outcomes == sorted(outcomes)  # before, up to one operation, and after from there on
    assert outcomes.count(False) > 3
    assert outcomes.count(True) > 2


@pytest.mark.slow
def test_a_kill_while_a_ledger_is_created_leaves_none_or_all_of_it(
    base: Path, patches: list[Patch], tmp_path: Path
) -> None:
    outcomes = []
    expected = summary(Ledger.create(tmp_path / "done", base, patches[:2], by="Ann"))
    for first in range(1, 200):
        folder = tmp_path / f"ledger-{first}"
        folder.mkdir()
        with breaking(folder, first, Killed()) as broken, contextlib.suppress(Killed):
            Ledger.create(folder, base, patches[:2], by="Ann")
        if not broken.happened:
            break
        outcomes.append(Ledger.exists(folder))
        if not outcomes[-1]:
            with pytest.raises(LedgerError, match="is not a ledger|never finished") as refused:
                Ledger(folder)
            if "never finished" in refused.value.message:
                assert f"'editkit patch apply FILE --model {base} --" in str(refused.value.hint)
            Ledger.create(folder, base, patches[:2], by="Ann")
        ledger = Ledger(folder)
        assert summary(ledger) == expected
        with ledger._files.alone():
            pass
        assert leftovers(ledger) == []
    assert outcomes == sorted(outcomes)
    assert len(set(outcomes)) == 2


@pytest.mark.parametrize(
    ("action", "sample"),
    [
        ("revert", True),
        *(pytest.param(each, False, marks=pytest.mark.slow) for each in ACTIONS),
    ],
)
def test_a_full_disk_leaves_everything_as_it_was(
    made: Ledger, patches: list[Patch], tmp_path: Path, action: str, sample: bool
) -> None:
    act = ACTIONS[action]
    done = copied(made, tmp_path / "done")
    act(done, patches)
    after = summary(done)
    total = operations(made, patches, tmp_path / "ledger", act, FULL)
    every = list(range(1, total + 1))
    refused = []
    for operation in every[::2] if sample else every:
        ledger = copied(made, tmp_path / "ledger")
        before = contents(ledger.folder)
        error = None
        with breaking(ledger.folder, operation, FULL):
            try:
                act(ledger, patches)
            except LedgerError as raised:
                error = raised
        refused.append(error is not None)
        if error is not None:
            assert "No space left" in error.message
            assert "Free disk space" in str(error.hint)
            assert contents(ledger.folder) == before
            continue
        assert summary(ledger) == after
        with ledger._files.alone():
            pass
        assert leftovers(ledger) == []
        assert summary(ledger) == after
    assert refused == sorted(refused, reverse=True)
    assert refused.count(True) > 3


# ---------------------------------------------------------------- real kills

_WORKER = """
import sys
from editkit import Ledger, Patch
folder, *files = sys.argv[1:]
patches = [Patch.load(file) for file in files]
ledger = Ledger(folder)
print("ready", flush=True)
while True:
    for action in (ledger.apply, ledger.revert):
        for patch in patches:
            action(patch)
            print("done", flush=True)
"""


@pytest.mark.slow
def test_real_kills_at_random_times(base: Path, patches: list[Patch], tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "ledger", base, patches[0])
    files = [str(patch.save(tmp_path / f"{i}.safetensors")) for i, patch in enumerate(patches)][1:]
    bytes_of = {}
    reference = Ledger.create(tmp_path / "reference", base, patches[0])
    for count, patch in enumerate(patches[1:]):
        bytes_of[tuple(range(1, count + 2))] = served(reference)
        reference.apply(patch)
    bytes_of[tuple(range(1, 6))] = served(reference)
    for patch in patches[1:]:
        reference.revert(patch)
        numbers = tuple(entry.number for entry in reference.applied)
        bytes_of[numbers] = served(reference)
    draw = random.Random(0)
    seen = set()
    for actions in (1, 6, 3, 0, 5, 2):  # that are done before the kill
        command = [sys.executable, "-c", _WORKER, str(ledger.folder), *files]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        start, lasted = time.monotonic(), 0.5
        for _ in range(actions):
            assert process.stdout.readline() == b"done\n"
            lasted, start = time.monotonic() - start, time.monotonic()
        time.sleep(draw.uniform(0, 1.2) * lasted)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        numbers = tuple(entry.number for entry in ledger.applied)
        seen.add(numbers)
        assert served(ledger) == bytes_of[numbers]
        assert ledger.check() == []
        with ledger._files.alone():
            pass
        if len(numbers) > 1:
            ledger.revert(list(numbers[1:]))
        assert served(ledger) == bytes_of[(1,)]
        assert leftovers(ledger) == []
    assert len(seen) > 3
