"""``runs_in(DIR).to_frame()``: results as pandas tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import editkit as public
from editkit import EditRequest, StoreError
from editkit.benchmark.frames import frame_of_models, frame_of_records
from editkit.benchmark.store import model_rows_of, rows_of, runs_in
from editkit.results import Cell, ModelRow, Row, Run
from tests.editkit.benchmark.fakes import ROOT

Cli = Callable[..., tuple[int, str, str]]
CELL = Cell("rome", None, {}, {}, "editkit", "1", 3, "0123456789abcdef", {}, {})
RUN = Run(
    Path("out"), "atlas", {"name": "atlas", "dtype": "float32"}, {"name": "few", "n_records": 2},
    (), (), (3,), (CELL,), 10,
)  # fmt: skip


def test_a_folder_of_runs_is_a_list_with_tables(out: Path) -> None:
    runs = public.runs_in(str(out))
    assert isinstance(runs, list)
    [run] = runs
    assert run == runs_in(out)[0]
    frame = runs.to_frame()
    assert len(frame) == 2 * 23
    for cell in run.cells:
        own = frame[frame.cell == cell.fingerprint[:12]]
        assert set(own.editor) == {cell.editor}
        stored = {row.case_id: row.scores["fake/score"] for row in rows_of(run, cell)}
        assert dict(zip(own.case_id, own["fake/score"], strict=True)) == stored
    first = frame.iloc[0]
    assert (first.benchmark, first.model, first.dataset, first.regime, first.status) == (
        "small", "tiny", "few", "independent", "done",
    )  # fmt: skip
    assert first.prompt == f"{first.subject} lives in"
    assert set(frame.preset[frame.editor == "two"]) == {"paper"}
    assert frame.error.isna().all()


def test_types_and_what_is_missing() -> None:
    request = EditRequest("{} is in", "Rome", "France")
    rows = [
        (RUN, CELL, Row(7, "done", {"a/score": 1.0}, times={"edit_s": 2.0}), (request,)),
        (RUN, CELL, Row(8, "failed", error="no luck"), ()),
        (
            RUN,
            CELL,
            Row(9, "done", {"b/score": 0.5, "seed": 4.0}, checkpoint=10),
            (request, request),
        ),
    ]
    frame = frame_of_records(rows)
    assert frame.case_id.tolist() == [7, 8, 9]
    assert frame["a/score"].isna().tolist() == [False, True, True]
    assert frame["b/score"].isna().tolist() == [True, True, False]
    assert frame["seed"].tolist() == [3, 3, 3]
    assert frame["score:seed"].tolist()[2] == 4.0
    assert frame["error"].tolist()[1] == "no luck"
    assert frame["subject"].isna().tolist() == [False, True, False]
    assert frame["target_new"].tolist()[::2] == ["France", "France; France"]
    for name in ("seed", "case_id", "group", "place", "checkpoint"):
        assert frame[name].dtype == "int64"
    for name in ("a/score", "b/score", "edit_s"):
        assert frame[name].dtype == "float64"


def test_no_rows_give_an_empty_table_with_its_columns() -> None:
    frame = frame_of_records([])
    assert frame.empty
    assert {"editor", "case_id", "checkpoint"} <= set(frame.columns)
    assert frame.case_id.dtype == "int64"
    assert {"editor", "group"} <= set(frame_of_models([]).columns)


def test_models_have_a_table_of_their_own() -> None:
    rows = [(RUN, CELL, ModelRow(group, 10, {"drift/kl": 0.5})) for group in (0, 1)]
    frame = frame_of_models(rows)
    assert frame[["group", "checkpoint", "drift/kl"]].to_numpy().tolist() == [
        [0, 10, 0.5],
        [1, 10, 0.5],
    ]
    assert frame.group.dtype == "int64"


def test_a_folder_without_results_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no result store at .*results.sqlite"):
        public.runs_in(tmp_path).to_frame()


def test_the_example_of_the_documentation(
    editkit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A sequence and independent edits in one folder, with scores of models."""
    monkeypatch.chdir(tmp_path)
    few = ("--metrics", "efficacy", "--no-mlflow", "--quiet", "--limit", 4)
    sequence = ("--sequential", 4, "--checkpoints", "2,4", "--model-metrics", "change-norm")
    for arguments in ((), sequence):
        code, _, err = editkit("run-benchmark", "--editor", "none", *few, *arguments)
        assert code == 0, err
    page = (ROOT / "docs" / "storage.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^    import editkit\n\n(?:    .*\n)+", page, re.MULTILINE)
    names: dict[str, Any] = {}
    exec(re.sub(r"^    ", "", example, flags=re.MULTILINE), names)
    assert "efficacy/score" in capsys.readouterr().out
    frame: pd.DataFrame = names["frame"]
    assert len(frame) == 4 + 2 + 4
    assert frame[frame.regime != "independent"].checkpoint.tolist() == [2, 2, 4, 4, 4, 4]
    assert len(names["failed"]) == (frame["efficacy/score"] == 0).sum()
    [table] = re.findall(r"^\| columns \|.*\n\|---.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    documented = {name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row)}
    assert {name for name in frame if "/" not in name and not name.endswith("_s")} <= documented
    assert {"efficacy/score", "edit_s", "score_s"} <= documented & set(frame)
    runs = public.runs_in("editkit-results")
    models = runs.models_to_frame()
    stored = [row for run in runs for cell in run.cells for row in model_rows_of(run, cell)]
    assert models.checkpoint.tolist() == [row.checkpoint for row in stored] == [2, 4]
    assert stored[0].scores
    for key in stored[0].scores:
        assert models[key].tolist() == [row.scores.get(key) for row in stored]
