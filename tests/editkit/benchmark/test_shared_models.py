"""Joint edits and sequences through the command line, on the embedded model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from editkit import applied, load_delta, load_model, make_dataset, make_editor
from editkit.benchmark.completeness import is_complete
from editkit.benchmark.store import model_rows_of, rows_at, rows_of, runs_in
from editkit.editing.deltas import stack

Cli = Callable[..., tuple[int, str, str]]
FEW = ("--metrics", "efficacy", "--no-mlflow", "--quiet")


@pytest.fixture
def bench(editkit: Cli, tmp_path: Path) -> Callable[..., Any]:
    """Runs an editor, by default few steps of ft; returns the run and standard error."""

    def run(*arguments: object, out: str = "out", editor: str = "ft") -> Any:
        steps = ("--set", "editors.ft.steps=4") if editor == "ft" else ()
        code, _, err = editkit(
            *("run-benchmark", "--editor", editor, *steps, *FEW, *arguments),
            *("--out", tmp_path / out),
        )
        assert code == 0, err
        [run] = runs_in(tmp_path / out)
        return run, err

    return run


def scores(run: Any, cell: int = 0) -> list[Any]:
    return [(row.case_id, dict(row.scores)) for row in rows_of(run, run.cells[cell])]


def test_a_joint_edit_of_one_fact_is_an_independent_edit(bench: Any) -> None:
    alone, _ = bench("--limit", 4, out="alone")
    joint, _ = bench("--limit", 4, "--joint", 1, out="joint")
    for (case, own), (same, ours) in zip(scores(alone), scores(joint), strict=True):
        assert case == same
        assert ours == pytest.approx(own, abs=2e-5)
    assert alone.cells[0].fingerprint != joint.cells[0].fingerprint


def test_a_sequence_is_scored_at_checkpoints_and_is_what_python_does(
    bench: Any, tmp_path: Path
) -> None:
    run, err = bench("--limit", 5, "--sequential", 3, "--checkpoints", "1,2", "--set", "batch=2")
    assert "the last of 2 models gets only 2 facts" in err
    [cell] = run.cells
    assert is_complete(run, cell)
    at = {mark: [(r.group, r.place) for r in rows] for mark, rows in rows_at(run, cell).items()}
    assert {mark: sorted(places) for mark, places in at.items()} == {
        1: [(0, 1), (1, 1)],
        2: [(0, 1), (0, 2), (1, 1), (1, 2)],
        3: [(0, 1), (0, 2), (0, 3)],
    }
    model, records = load_model("atlas"), make_dataset("atlas").load().records
    editor = make_editor("ft", model, steps=4)
    [first] = editor.edit(model, [records[3].request])
    with applied(model, first):
        [second] = editor.edit(model, [records[4].request])
    [path] = (tmp_path / "out" / "sequences").glob("*-1/delta-2.safetensors")
    kept = load_delta(path)
    assert kept.requests == (records[3].request, records[4].request)
    assert kept.digest() == stack([first, second]).digest()
    assert {row.delta for row in model_rows_of(run, cell) if row.group == 1} >= {kept.digest()}
    assert not list((tmp_path / "out" / "sequences").glob("*/state*"))


def test_seeds_order_the_facts_and_groups_limit_the_models(bench: Any) -> None:
    run, _ = bench(
        *("--limit", 6, "--seed", 0, "--seed", 1),
        *("--set", "edits={joint: 2, groups: 2}"),
        editor="none",
    )
    in_order, shuffled = (rows_of(run, cell) for cell in run.cells)
    cases = [record.case_id for record in make_dataset("atlas").load().records[:6]]
    assert sorted(row.case_id for row in in_order) == sorted(cases[:4])
    assert len(shuffled) == 4
    assert {row.case_id for row in shuffled} != {row.case_id for row in in_order}
    assert all(is_complete(run, cell) for cell in run.cells)


def test_a_run_of_shards_is_the_whole_run(bench: Any, editkit: Cli, tmp_path: Path) -> None:
    asked = ("--limit", 4, "--joint", 2, "--model-metrics", "change-norm")
    whole, _ = bench(*asked, out="whole")
    for part in (1, 2):
        bench(*asked, "--shard", f"{part}/2", out=f"part{part}")
    assert editkit("merge", tmp_path / "all", tmp_path / "part1", tmp_path / "part2")[0] == 0
    [merged] = runs_in(tmp_path / "all")
    assert is_complete(merged, merged.cells[0])
    assert scores(merged) == scores(whole)
    assert [row.delta for row in model_rows_of(merged, merged.cells[0])] == [
        row.delta for row in model_rows_of(whole, whole.cells[0])
    ]


@pytest.mark.parametrize(
    ("flags", "code", "part"),
    [
        (("--joint", 7), 2, "edits is joint 7, but the run has only 6 records"),
        (("--step", 2), 2, "--step is for sequences, and there is no --sequential"),
        (("--sequential", 4, "--step", 5), 2, "step is 5, expected at most the 4 facts"),
        (("--sequential", 4, "--checkpoints", "1,x"), 2, "got 'x', expected a whole number"),
        (("--joint", 0), 2, "a whole number above 0"),
        (("--set", "edits={joint: many}"), 2, "joint is 'many', expected a whole number from 1"),
        (("--set", "edits=together"), 2, "expected independent, {joint: N}"),
        (("--set", "edits=[]"), 2, "edits"),
    ],
)
def test_mistakes_stop_the_run_with_a_reason(
    editkit: Cli, tmp_path: Path, flags: tuple[object, ...], code: int, part: str
) -> None:
    answer, _, err = editkit(
        "run-benchmark", "--editor", "none", "--limit", 6, *flags, "--out", tmp_path / "out"
    )
    assert answer == code
    assert part in err
    assert not (tmp_path / "out").exists()


def test_the_dry_run_shows_regimes_as_data(editkit: Cli, tmp_path: Path) -> None:
    code, text, _ = editkit(
        *("run-benchmark", "--editor", "none", "--limit", 6, "--joint", 3, "--sequential", 4),
        *("--dry-run", "--json", "--out", tmp_path / "out"),
    )
    assert code == 0
    joint, sequence = json.loads(text)["cells"]
    assert joint["edits"] == {"joint": 3}
    assert sequence["edits"] == {"sequential": 4, "step": 1, "checkpoints": [1, 4]}
    names = ("models", "facts_per_model", "facts_of_last", "checkpoints", "rows", "model_rows")
    assert [joint[name] for name in names] == [2, 3, 3, [3], 6, 2]
    # 1 + 4 facts of the first model are scored, and 1 + 2 of the second one
    assert [sequence[name] for name in names] == [2, 4, 2, [1, 4], 8, 4]


def test_the_dry_run_shows_how_much_a_cell_computes(editkit: Cli, tmp_path: Path) -> None:
    flags = ("--limit", 6, "--joint", 3, "--sequential", 4)
    code, text, err = editkit(
        *("run-benchmark", "--editor", "none", *flags, "--dry-run", "--out", tmp_path / "out")
    )
    assert code == 0
    assert "the last of 2 models gets only 2 facts" in err
    rows = [re.split(r"  +", line) for line in text.splitlines() if line.startswith(("none", "ed"))]
    assert [row[2:6] for row in rows] == [
        ["edits", "models x facts", "scored after", "rows"],
        ["joint 3", "2 x 3", "3", "6 + 2 of models"],
        ["sequential 4", "1 x 4, 1 x 2", "1, 4", "8 + 4 of models"],
    ]


def test_the_dry_run_checks_the_output_folder(editkit: Cli, tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    out.touch()
    code, text, _ = editkit(
        *("run-benchmark", "--editor", "none", "--limit", 1, "--dry-run", "--out", out)
    )
    assert code == 1
    assert "is a file, not a folder" in " ".join(text.split())
    assert text.endswith("the run would stop\n")


def test_the_run_measures_what_the_dry_run_announces(
    bench: Any, editkit: Cli, tmp_path: Path
) -> None:
    flags = ("--limit", 5, "--sequential", 3, "--checkpoints", "2")
    _, text, _ = editkit("run-benchmark", "--editor", "none", *flags, *FEW, "--dry-run", "--json")
    [announced] = json.loads(text)["cells"]
    run, _ = bench(*flags, editor="none")
    [cell] = run.cells
    assert sum(map(len, rows_at(run, cell).values())) == announced["rows"]
    assert len(model_rows_of(run, cell)) == announced["model_rows"]
