"""The runner through the command line, in this process, with the fake world."""

from __future__ import annotations

import json
import random
import sqlite3
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from editkit import TrackingError, hookimpl
from editkit.benchmark.aggregate import cell_document
from editkit.benchmark.completeness import is_complete
from editkit.benchmark.store import rows_of, runs_in
from editkit.registry.plugins import default_registry
from editkit.results import STORE_FILE, Row
from tests.editkit.benchmark import fakes

pytestmark = pytest.mark.usefixtures("fake_world")
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(editkit: Cli, tmp_path: Path) -> Callable[..., Any]:
    """Runs the small benchmark: exit code and ``--json`` document."""

    def run(*arguments: object, out: str = "out") -> tuple[int, Any]:
        code, text, _ = editkit(
            "run-benchmark", "small", "--json", "--out", tmp_path / out, *arguments
        )
        return code, json.loads(text) if text else None

    return run


def results(document: Any) -> Any:
    """The parts that must not depend on interruptions and shards."""
    return [
        {key: cell[key] for key in ("editor", "preset", "fingerprint", "records", "metrics")}
        for cell in document["cells"]
    ]


def rows(out: Path, cell: int = 0) -> list[Row]:
    run = runs_in(out)[0]
    return rows_of(run, run.cells[cell])


def observer(**hooks: Any) -> types.SimpleNamespace:
    return types.SimpleNamespace(**{f"editkit_{name}": hookimpl(h) for name, h in hooks.items()})


def test_the_document_has_schema_1(bench: Any) -> None:
    code, document = bench()
    assert code == 0
    assert list(document) == [
        "schema", "benchmark", "model", "dataset", "cells", "differences",
    ]  # fmt: skip
    assert document["schema"] == 1
    assert document["model"]["name"] == "tiny"
    assert set(document["dataset"]) == {"name", "digest", "n_records", "rejected"}
    assert [cell["editor"] for cell in document["cells"]] == ["one", "two"]
    for cell in document["cells"]:
        assert cell["records"] == {"done": 23, "failed": 0}
        assert set(cell["metrics"]) == {
            "fake/score", "fake/magnitude", "other/score", "summary/score",
        }  # fmt: skip
        for estimate in cell["metrics"].values():
            bounds = {"ci_low", "ci_high", "paper_ci_low", "paper_ci_high"}
            assert set(estimate) == {"mean", "n", *bounds}
            assert estimate["n"] == 23
        assert {"edit_s_mean", "score_s_mean", "prepare_s"} == set(cell["time"])
    [difference] = document["differences"]
    assert {difference["editor"], difference["minus"]} == {"one", "two"}
    summary = difference["metrics"]["summary/score"]
    assert 0 < summary["p"] == summary["p_corrected"] <= 1
    assert {"effect", "higher", "lower", "needed"} < set(summary)


def test_stored_work_is_not_repeated_and_needs_no_model(bench: Any) -> None:
    first = bench()
    assert fakes.loaded == ["tiny"]
    assert bench() == first
    assert fakes.loaded == ["tiny"]


def test_fresh_recomputes(bench: Any, tmp_path: Path) -> None:
    _, first = bench()
    before = [row.completed_at for row in rows(tmp_path / "out")]
    _, second = bench("--fresh")
    assert results(first) == results(second)
    assert all(a < b.completed_at for a, b in zip(before, rows(tmp_path / "out"), strict=True))


def test_the_random_numbers_of_a_batch_are_its_own(bench: Any, tmp_path: Path) -> None:
    state = random.getstate()
    _, whole = bench(out="whole")
    assert random.getstate() == state
    for i in (3, 1, 2):
        bench("--shard", f"{i}/3", out="parts")
    _, parts = bench(out="parts")
    assert results(whole) == results(parts)
    assert bench("--seed", 1, out="other")[1]["cells"][0]["metrics"] != whole["cells"][0]["metrics"]


def test_merged_shards_are_the_whole(bench: Any, editkit: Cli, tmp_path: Path) -> None:
    for i in (1, 2):
        code, part = bench("--shard", f"{i}/2", out=f"shard{i}")
        assert code == 0
        assert part["dataset"]["n_records"] == 23
    code, text, _ = editkit("merge", tmp_path / "all", tmp_path / "shard1", tmp_path / "shard2")
    assert code == 0
    assert "26 new rows" in text
    fakes.loaded.clear()
    assert results(bench(out="all")[1]) == results(bench(out="whole")[1])
    assert fakes.loaded == ["tiny"]  # for the whole run; the merged one was complete


def test_a_merge_conflict_names_the_case(bench: Any, editkit: Cli, tmp_path: Path) -> None:
    bench(out="a")
    bench(out="b")
    path = tmp_path / "b" / STORE_FILE
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM rows WHERE case_id = 990")
    connection.close()
    run = runs_in(tmp_path / "b")[0]
    from editkit.benchmark.store import Store

    with Store(path) as store:
        store.put_rows(run.cells[0].fingerprint, [Row(990, "done", {"fake/score": 0.125})])
    code, _, err = editkit("merge", tmp_path / "a", tmp_path / "b")
    assert code == 4
    assert "case 990 of editor 'one'" in err


def test_only_the_record_at_fault_fails(bench: Any, tmp_path: Path) -> None:
    code, document = bench("--set", "editors.one.fail_on=[3, 21]")
    assert code == 1
    assert document["cells"][0]["records"] == {"done": 21, "failed": 2}
    assert document["cells"][1]["records"] == {"done": 23, "failed": 0}
    failed = [row for row in rows(tmp_path / "out") if row.status == "failed"]
    assert [row.case_id for row in failed] == [979, 997]
    assert failed[1].error == "ValueError: subject 3 is not to my taste"
    assert bench("--set", "editors.one.fail_on=[3, 21]") == (1, document)


def test_failed_records_are_computed_again_on_request(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--set", "editors.one.fail_on=[3, 21]")
    bench(*flags)
    before = {row.case_id: row for row in rows(tmp_path / "out") if row.status == "done"}
    again: list[str] = []

    def edit(self: Any, model: Any, requests: Any) -> list[fakes.FakeDelta]:
        again.extend(request.subject for request in requests)
        return [fakes.FakeDelta(0.5, {}) for _ in requests]

    monkeypatch.setattr(fakes.FakeEditor, "edit", edit)
    code, document = bench(*flags, "--retry-failed")
    assert code == 0
    assert document["cells"][0]["records"] == {"done": 23, "failed": 0}
    assert sorted(again) == ["subject 21", "subject 3"]
    after = {row.case_id: row for row in rows(tmp_path / "out")}
    assert {case: after[case] for case in before} == before


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("editors.one.nan_on=[3]", "the edit is not finite"),
        ("metrics.fake.nan_on=[997]", "metric 'fake' gives fake/score = nan, which is not finite"),
    ],
)
def test_numbers_that_are_not_finite_fail_only_their_record(
    bench: Any, tmp_path: Path, assignment: str, reason: str
) -> None:
    code, document = bench("--editor", "one", "--set", assignment)
    assert code == 1
    assert document["cells"][0]["records"] == {"done": 22, "failed": 1}
    failed = [row for row in rows(tmp_path / "out") if row.status == "failed"]
    assert [(row.case_id, row.error) for row in failed] == [(997, reason)]
    assert failed[0].times["edit_s"] >= 0


def test_an_editor_that_loses_requests_ends_the_run(editkit: Cli, tmp_path: Path) -> None:
    """The editor is at fault, so that no record is stored as failed."""
    out = tmp_path / "out"
    code, _, err = editkit("run-benchmark", "small", "--out", out, "--editor", "short")
    assert code == 3
    assert "deltas for" in err
    assert not rows(out)


def test_an_editor_that_changes_the_model_is_named_and_loses_its_rows(
    editkit: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, _, err = editkit(
        "run-benchmark", "small", "--out", out, "--set", "editors.two.mutate=true"
    )
    assert code == 3
    assert "editor 'two' of fake-plugin 1.0 changed the model's own weights" in err
    assert (len(rows(out, 0)), len(rows(out, 1))) == (23, 0)


def test_an_editor_that_cannot_be_prepared_is_named(editkit: Cli, tmp_path: Path) -> None:
    code, _, err = editkit(
        "run-benchmark", "small", "--out", tmp_path, "--set", "editors.two.broken_prepare=true"
    )
    assert code == 3
    assert "could not be prepared: RuntimeError: no statistics" in err


def test_damaged_rows_are_reported_and_recomputed(bench: Any, editkit: Cli, tmp_path: Path) -> None:
    _, first = bench()
    with sqlite3.connect(tmp_path / "out" / STORE_FILE) as connection:
        connection.execute("UPDATE rows SET payload = '{}' WHERE case_id = 995")
    connection.close()
    code, _, err = editkit("run-benchmark", "small", "--out", tmp_path / "out")
    assert code == 0
    assert "(its checksum is wrong): case 995. They will be recomputed." in err
    assert results(bench()[1]) == results(first)


def test_rejected_records_are_counted_and_reported(editkit: Cli, tmp_path: Path) -> None:
    code, text, err = editkit(
        "run-benchmark", "small", "--out", tmp_path, "--set", "dataset.rejected=2", "--json"
    )
    assert code == 0
    assert "skipped 2 broken records: case 0, prompt: is empty; case 1" in err
    assert json.loads(text)["dataset"]["rejected"] == 2


def test_observers_see_the_run_and_add_to_the_document(bench: Any) -> None:
    seen: list[Any] = []
    plugin = observer(
        run_started=lambda run: seen.append(("started", run.tracking)),
        record_finished=lambda row: seen.append(row.case_id),
        cell_finished=lambda run, cell: seen.append(cell_document(run, cell)["records"]),
        run_finished=lambda run: {"mlflow": {"run_ids": ["1"]}},
    )
    default_registry().register(plugin, name="watcher")
    _, document = bench("--editor", "one", "--no-mlflow")
    assert seen == [("started", False), *range(1000, 977, -1), {"done": 23, "failed": 0}]
    assert document["mlflow"] == {"run_ids": ["1"]}
    seen.clear()
    bench("--editor", "one", "--shard", "1/2", out="part")
    assert {"done": 13, "failed": 0} not in seen  # the cell is incomplete


def test_a_failing_observer_is_a_warning_and_a_tracking_error_the_exit_code(
    editkit: Cli, tmp_path: Path
) -> None:
    def fail() -> None:
        raise RuntimeError("no network")

    def lose() -> None:
        raise TrackingError("the server is gone.", hint="Start it.")

    registry = default_registry()
    registry.register(observer(record_finished=fail), name="flaky")
    code, _, err = editkit("run-benchmark", "small", "--out", tmp_path)
    assert code == 0
    assert err.count("warning: plugin 'flaky'") == 1
    registry.register(observer(run_finished=lose), name="tracker")
    code, text, err = editkit("run-benchmark", "small", "--out", tmp_path, "--json")
    assert code == 4
    assert "the server is gone. Start it." in err
    assert json.loads(text)["schema"] == 1


def test_stored_runs_can_be_read_back(bench: Any, tmp_path: Path) -> None:
    _, document = bench("--seed", 0, "--seed", 1)
    bench("--limit", 7)
    runs = runs_in(tmp_path / "out")
    assert [run.dataset["n_records"] for run in runs] == [23, 7]
    assert [cell_document(runs[0], cell) for cell in runs[0].cells] == document["cells"]
    assert runs[0].seeds == (0, 1)
    assert all(is_complete(runs[0], cell) for cell in runs[0].cells)


def test_the_table_and_the_dry_run(editkit: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, text, _ = editkit("run-benchmark", "small", "--out", out, "--dry-run")
    assert code == 0
    assert "23 records of few in 5 batches, on tiny" in text
    assert text.count("0 stored, 23 left") == 2
    assert not out.exists()
    assert fakes.loaded == []
    code, text, err = editkit("run-benchmark", "small", "--out", out, "--set", "editors.one.seed=3")
    title, _, head, _, *lines = text.splitlines()
    assert title == "small: 23 records of few, on tiny (float32); shares x 100, 95% intervals"
    assert head.split() == ["editor", "S", "FS", "FM", "OS", "s/edit", "records"]
    assert [line.split()[0] for line in lines[:2]] == ["one", "two"]
    assert "\x1b" not in text
    assert f"Results are in {out}." in text
    assert "23/46 edits: two" in err
    _, text, err = editkit("run-benchmark", "small", "--out", out, "--dry-run", "--json")
    left = [cell["records"]["left"] for cell in json.loads(text)["cells"]]
    assert left == [23, 0]
    _, _, err = editkit("run-benchmark", "small", "--out", out, "--quiet")
    assert err == ""


WORDS = ("--metrics", "words,fake", "--set", 'dataset.config.texts=["one","two"]')


def test_a_corpus_is_part_of_the_protocol_and_texts_are_kept(bench: Any, tmp_path: Path) -> None:
    code, document = bench(*WORDS, "--limit", 3, "--seed", 4)
    assert code == 0
    assert document["cells"][0]["metrics"]["words/score"]["mean"] == pytest.approx(0.2)
    first = rows(tmp_path / "out")[0]
    assert first.texts == {"words": ["seed 4", "and more"]}
    [run] = runs_in(tmp_path / "out")
    protocol = run.metrics[0]["protocol"]
    assert protocol.startswith("words/v1/reference-")
    assert run.metrics[1]["protocol"] == "fake/v1"
    # Another corpus means another protocol, which no table mixes with the first.
    bench("--metrics", "words,fake", "--set", 'dataset.config.texts=["one"]', "--limit", 3)
    assert len({run.metrics[0]["protocol"] for run in runs_in(tmp_path / "out")}) == 2
    assert len(runs_in(tmp_path / "out")) == 2


def test_a_limit_changes_neither_corpus_nor_protocol(bench: Any, tmp_path: Path) -> None:
    for limit in (3, 5):
        bench(*WORDS, "--limit", limit)
    assert len({run.metrics[0]["protocol"] for run in runs_in(tmp_path / "out")}) == 1


def test_a_missing_or_unusable_corpus_ends_the_run_with_a_hint(editkit: Cli) -> None:
    code, _, err = editkit("run-benchmark", "small", "--metrics", "words")
    assert code == 2
    assert "metric 'words' needs reference texts, and dataset 'few' has none" in err
    assert "--set dataset.config.reference_texts=FILE" in err
    code, _, err = editkit(
        "run-benchmark", "small", "--metrics", "words", "--set", 'dataset.config.texts=["broken"]'
    )
    assert code == 3
    assert "metric 'words' could not be prepared: RuntimeError: no words" in err


def test_a_score_with_its_own_scale_is_not_rescaled(editkit: Cli, tmp_path: Path) -> None:
    code, text, _ = editkit("run-benchmark", "small", *WORDS, "--out", tmp_path / "out")
    assert code == 0
    assert " 0.200  " in text  # equal numbers without two bounds: no interval
