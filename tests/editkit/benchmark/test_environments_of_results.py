"""Results of different machines: what may be merged, and what a run reports."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version as editkit_version
from pathlib import Path

import pytest

from editkit import StoreError
from editkit.benchmark.merge import TOLERANCE, merge
from editkit.benchmark.store import Store
from editkit.results import STORE_FILE, Row
from tests.editkit.benchmark.test_hostile_stores import first_row, row

Cli = Callable[..., tuple[int, str, str]]


def stores(tmp_path: Path, ours: Row, theirs: Row, *machines: str | None) -> tuple[Store, Store]:
    made = []
    for name, each, machine in zip("ab", (ours, theirs), machines, strict=True):
        store = Store(tmp_path / name / STORE_FILE)
        if machine:
            store.computed_with({"processor": machine, "torch_threads": len(machine)})
        store.put_cell("f", {"cell": {"editor": "one"}})
        store.put_rows("f", [each])
        made.append(store)
    return made[0], made[1]


@pytest.mark.parametrize(
    ("machines", "distance", "merges"),
    [
        (("A", "A"), 0.0, True),
        (("A", "A"), 1e-12, False),
        (("A", "BB"), 1e-6, True),
        (("A", "BB"), TOLERANCE * 0.9, True),
        (("A", "BB"), TOLERANCE * 1.1, False),
        ((None, "A"), 1e-6, True),
        ((None, None), 1e-6, True),
        ((None, None), 1e-2, False),
    ],
)
def test_results_must_be_equal_in_one_environment_and_close_in_two(
    machines: tuple[str | None, str | None], distance: float, merges: bool, tmp_path: Path
) -> None:
    ours, theirs = stores(tmp_path, row(0.5), row(0.5 + distance), *machines)
    with ours, theirs:
        if not merges:
            expected = "exactly equal" if machines[0] == machines[1] == "A" else "at most 0.001"
            with pytest.raises(StoreError, match=rf"case 7 .* x/score 0\.5 against .*{expected}"):
                merge(ours, theirs)
            return
        merged = merge(ours, theirs)
        assert (merged.compared, merged.rows) == (1, ())
        assert ours.rows("f")[0].scores == {"x/score": 0.5}
        if distance:
            assert merged.largest is not None
            assert merged.largest.size == pytest.approx(distance)
            assert merged.elsewhere == 1
            known = "torch_threads: 1, 2" in merged.environments
            assert known == (None not in machines)


@pytest.mark.parametrize(
    "other",
    [
        row(0.5, scores={"x/score": 0.5, "y": 1.0}),
        row(0.5, details={"xs": [0.5]}),
        row(0.5, details={}),
        row(0.5, texts={"generation": ["a"]}),
        Row(7, "failed", error="no"),
    ],
)
def test_the_tolerance_does_not_cover_keys_texts_or_status(other: Row, tmp_path: Path) -> None:
    ours, theirs = stores(tmp_path, row(0.5), other, "A", "BB")
    with ours, theirs, pytest.raises(StoreError, match="case 7"):
        merge(ours, theirs)


def test_merging_keeps_the_environments_and_reports_the_difference(
    tmp_path: Path, editkit: Cli
) -> None:
    ours, theirs = stores(tmp_path, row(0.5), row(0.5 + 1e-6), "A", "BB")
    with ours, theirs:
        theirs.put_rows("f", [row(0.25, case=8)])
    code, printed, err = editkit("merge", tmp_path / "a", tmp_path / "b")
    assert code == 0, err
    assert "1 new rows, 1 that already existed" in printed
    assert "processor: A, BB; torch_threads: 1, 2" in printed
    assert "a largest difference of 1.0e-06 (case 7, " in printed
    with Store(tmp_path / "a" / STORE_FILE, read_only=True) as store:
        assert {each["processor"] for each in store.environments().values()} == {"A", "BB"}
        known = store.environments()
        machines = [known[each.environment]["processor"] for each in store.rows("f")]
        assert machines == ["A", "BB"]


def test_a_run_in_another_environment_logs_the_changes(
    out: Path, editkit: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, case, _ = first_row(out)
    with Store(out / STORE_FILE) as store:
        [environment] = store.environments().values()
        assert environment["device"] == "cpu"
        assert environment["processor"]
        assert environment["editkit"] == editkit_version("editkit")
        store.discard(key, [case])
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    code, _, err = editkit("run-benchmark", "small", "--out", out, "--no-mlflow")
    assert code == 0
    assert "45 stored rows were computed in another environment" in err
    assert "MKL_CBWR: None, COMPATIBLE" in err
    with Store(out / STORE_FILE, read_only=True) as store:
        assert len(store.environments()) == 2


def test_a_run_in_the_same_environment_logs_nothing(out: Path, editkit: Cli) -> None:
    key, case, _ = first_row(out)
    with Store(out / STORE_FILE) as store:
        store.discard(key, [case])
    assert "environment" not in editkit("run-benchmark", "small", "--out", out, "--no-mlflow")[2]
