from __future__ import annotations

import dataclasses
import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
from tracking_samples import NOON, SCORES, cell, finished_run, row, run_in, store_rows

from editkit import EditRequest
from editkit.benchmark.aggregate import cell_document
from editkit.benchmark.store import Store, runs_in
from editkit.cli.main import main
from editkit.registry.plugins import default_registry
from editkit.registry.styles import styles_of
from editkit_plugins.mlflow_tracking.cells import content_of
from editkit_plugins.mlflow_tracking.colors import run_colors
from editkit_plugins.mlflow_tracking.content import finite_metrics, flat_params, table_json
from editkit_plugins.mlflow_tracking.notes import repeat_command

BOUNDS = ("ci_low", "ci_high")
METRICS = ("efficacy", "paraphrase", "neighborhood", "same-subject")  # of the benchmark atlas


def test_infinite_numbers_never_reach_mlflow() -> None:
    values = {"a": 1.0, "b": math.inf, "c": -math.inf, "d": math.nan, "e": None, "f/ft+l": 2}
    assert finite_metrics(values) == {"a": 1.0, "f/ft-l": 2.0}


def test_parameters_are_flat_and_omit_none() -> None:
    values = {"editor": "rome", "editor.layer": 3, "preset": None, "editor.on": True, "n": {"a": 1}}
    assert flat_params(values) == {
        "editor": "rome",
        "editor.layer": "3",
        "editor.on": "true",
        "n.a": "1",
    }


def test_a_table_keeps_the_order_of_columns_and_drops_infinity() -> None:
    lines = [{"case_id": 4, "score": 0.5}, {"case_id": 5, "score": math.nan, "error": "no"}]
    shown = json.loads(table_json(lines))
    assert shown["columns"] == ["case_id", "score", "error"]
    assert shown["data"] == [[4, 0.5, None], [5, None, "no"]]


def test_the_table_of_records_starts_with_the_case_and_is_limited(tmp_path: Path) -> None:
    run = run_in(tmp_path, [cell("rome")])
    store_rows(run, run.cells[0], [row(case) for case in range(501)])
    content = content_of(run, run.cells[0])
    shown = json.loads(content.files["records.json"])
    scores = [score.key for score in SCORES]
    assert shown["columns"] == ["case", "result", "case_id", *scores, "edit_s"]
    assert shown["data"][7][:3] == ["7", "ES 100.0 · NS 50.0", 7]
    assert len(shown["data"]) == 500
    assert len(content.records) == 501


def test_the_content_matches_the_store(tmp_path: Path) -> None:
    run = finished_run(tmp_path, "rome")
    content = content_of(run, run.cells[0])
    assert content.name == "rome · tiny · facts"
    assert content.fingerprint == "rome-f00d"
    assert next(iter(content.metrics)) == "summary/score"
    assert content.metrics["efficacy/score"] == 1.0
    assert content.metrics["neighborhood/score"] == 0.5
    assert not any("_ci_" in name for name in content.metrics)
    assert content.metrics["time/edit_s_mean"] == 0.5
    assert content.metrics["memory/peak_rss_mb"] == 103.0
    assert (content.metrics["records/done"], content.metrics["records/failed"]) == (3.0, 0.0)
    assert content.params["editor.layer"] == "3"
    assert "preset" not in content.params
    assert content.tags["editor"] == "rome"
    assert (content.started, content.finished) == ((NOON + 3 - 3 * 0.75) * 1000, (NOON + 3) * 1000)
    assert set(content.files) == {"config.yaml", "summary.json", "intervals.json", "records.json"}
    tables = json.loads(content.tags["mlflow.loggedArtifacts"])
    assert [table["path"] for table in tables] == ["intervals.json", "records.json"]
    line = {head: content.tags[head] for head in ("S", "ES", "EM", "NS", "s/edit", "records")}
    assert line == {
        "S": "66.7",
        "ES": "100.0",
        "EM": "+50.0",
        "NS": "50.0",
        "s/edit": "0.500",
        "records": "3",
    }
    assert content.records[0]["efficacy/nll_new"] == [0.1, 0.2]


def test_the_content_of_a_store_is_reproducible(tmp_path: Path) -> None:
    run = finished_run(tmp_path, "rome")
    assert content_of(run, run.cells[0]).digest == content_of(run, run.cells[0]).digest
    (replayed,) = runs_in(tmp_path)
    assert content_of(replayed, replayed.cells[0]).digest == content_of(run, run.cells[0]).digest


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "rome · tiny · facts"),
        ({"preset": "published"}, "rome · tiny · facts"),
        ({"preset": "paper"}, "rome · tiny · facts · paper"),
        ({"seed": 3}, "rome · tiny · facts · seed 3"),
    ],
)
def test_names_distinguish_runs(tmp_path: Path, changes: dict[str, str], name: str) -> None:
    run = run_in(tmp_path, [cell("rome", **changes)])
    store_rows(run, run.cells[0], [row(1)])
    assert content_of(run, run.cells[0]).name == name


def test_a_preset_is_tagged_with_the_file_that_replaces_its_values(tmp_path: Path) -> None:
    values = {"config": {"weight_decay": 0.1}, "preset": "published"}
    own = cell("rome", **values, sources={"weight_decay": "editkit_configs/rome/atlas.yaml"})
    run = run_in(tmp_path, [own])
    store_rows(run, own, [row(1)])
    content = content_of(run, own)
    assert content.tags["preset"] == content.params["values_from"] == "published + atlas.yaml"
    assert json.loads(content.files["summary.json"])["preset"] == "published"


def test_a_name_repeats_no_part(tmp_path: Path) -> None:
    run = run_in(
        tmp_path,
        [cell("rome")],
        model={"name": "atlas", "fingerprint": "f", "dtype": "float32"},
        dataset={"name": "atlas", "digest": "d", "n_records": 1},
    )
    store_rows(run, run.cells[0], [row(1)])
    assert content_of(run, run.cells[0]).name == "rome · atlas"
    own = dataclasses.replace(run, benchmark="atlas")
    assert content_of(own, run.cells[0]).name == "rome"
    path = dataclasses.replace(own, model={**run.model, "name": "models/gpt-j/"})
    assert content_of(path, run.cells[0]).name == "rome · gpt-j"


def test_settings_distinguish_cells_of_one_editor_across_runs(tmp_path: Path) -> None:
    earlier = cell("rome", fingerprint="early")
    later = cell("rome", fingerprint="late", config={**earlier.config, "layer": 2})
    store_rows(run_in(tmp_path, [earlier]), earlier, [row(1)])
    assert content_of(run_in(tmp_path, [earlier]), earlier).name == "rome · tiny · facts"
    alone = run_in(tmp_path, [later])
    store_rows(alone, later, [row(1)])
    assert content_of(alone, later).name == "rome (layer 2) · tiny · facts"
    elsewhere = run_in(tmp_path, [later], benchmark="other")
    assert content_of(elsewhere, later).name == "rome · tiny · facts"


def test_texts_have_their_own_table_with_the_edit(tmp_path: Path) -> None:
    run = run_in(tmp_path, [cell("rome")])
    texts = {"generation": ["Zoë is\nhere.", "<b>Zoë</b>"]}
    store_rows(run, run.cells[0], [row(1, texts=texts), row(2)])
    request = EditRequest("{} lives in", "Zoë", "Rome", target_true="Paris", relation_id="P1")
    with Store(run.store) as store:
        store.put_requests(run.dataset["digest"], {1: (request,)})
    content = content_of(run, run.cells[0])
    artifacts = json.loads(content.tags["mlflow.loggedArtifacts"])
    assert [entry["path"] for entry in artifacts] == [
        *("intervals.json", "records.json", "generations.json")
    ]
    shown = json.loads(content.files["generations.json"])
    assert shown["columns"][:2] == json.loads(content.files["records.json"])["columns"][:2]
    assert [dict(zip(shown["columns"], line, strict=True)) for line in shown["data"]] == [
        {
            "case": f"1 · generation {place} · Zoë lives in → Rome",
            "result": text,
            "case_id": 1,
            "prompt": "Zoë lives in",
            "target": "Rome",
            "was": "Paris",
            "relation": "P1",
            "generation": place,
        }
        for place, text in enumerate(texts["generation"], start=1)
    ]
    assert "Zoë is" not in content.files["records.json"]


def test_failed_records_are_described(tmp_path: Path) -> None:
    run = run_in(tmp_path, [cell("rome")])
    failed = row(2, status="failed", scores={}, details={}, error="the delta is not finite")
    store_rows(run, run.cells[0], [row(1), failed, row(3)])
    content = content_of(run, run.cells[0])
    assert "1 of 3 records failed" in content.tags["mlflow.note.content"]
    assert "case 2: the delta is not finite" in content.tags["mlflow.note.content"]
    assert content.metrics["records/failed"] == 1.0
    assert content.tags["records"] == "2 (1 failed)"
    line = json.loads(content.files["records.json"])["data"][1]
    assert line[:2] == ["2", "failed: the delta is not finite"]


def test_every_score_has_its_interval_in_a_table(tmp_path: Path) -> None:
    run = run_in(tmp_path, [cell("rome")])
    store_rows(run, run.cells[0], [row(case, es=case % 2) for case in range(20)])
    content = content_of(run, run.cells[0])
    table = json.loads(content.files["intervals.json"])
    assert table["columns"] == ["score", "estimate", "n", "mean", "ci_low", "ci_high"]
    estimates = cell_document(run, run.cells[0])["metrics"]
    labels = {"S": "summary/score", **{score.label: score.key for score in SCORES}}
    for line, (label, key) in zip(table["data"], labels.items(), strict=True):
        assert line[:2] == [f"{label} · {key}", content.tags[label]]
        assert line[2:] == [20, *(round(estimates[key][k], 6) for k in ("mean", *BOUNDS))]
    assert estimates["efficacy/score"]["ci_low"] < 0.5


def test_the_description_names_the_editor_its_scores_and_the_command(tmp_path: Path) -> None:
    run = finished_run(tmp_path, "rome")
    note = content_of(run, run.cells[0]).tags["mlflow.note.content"]
    assert note.startswith("**rome**: Rank-one model editing")
    assert "3 records of facts on tiny (float32), each in its own copy of the model." in note
    assert "S **66.7**, ES **100.0**, NS **50.0**; 0.500 s per edit." in note
    assert "editkit run-benchmark FILE --editor rome --model tiny --limit 3" in note


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, ""),
        ({"seed": 3}, " --seed 3"),
        ({"preset": "corrected"}, " --set editors.rome.preset=corrected"),
        (
            {"preset": "published", "sources": {"weight_decay": "preset published"}},
            " --set editors.rome.preset=published",
        ),
        (
            {"preset": "published", "sources": {"weight_decay": "editkit_configs/rome/atlas.yaml"}},
            "",
        ),
        ({"sources": {"layer": "--set"}}, " --set editors.rome.layer=3"),
        ({"edits": {"joint": 2}}, " --joint 2"),
        (
            {"edits": {"sequential": 4, "step": 2, "checkpoints": [2, 4]}},
            " --sequential 4 --step 2 --checkpoints 2,4",
        ),
        (
            {"edits": {"joint": 2, "groups": 1}},
            """ --set 'edits={"joint": 2, "groups": 1}'""",
        ),
    ],
)
def test_the_command_has_what_the_benchmark_does_not(
    tmp_path: Path, changes: dict[str, Any], flags: str
) -> None:
    run = run_in(
        tmp_path,
        [cell("rome", **changes)],
        benchmark="atlas",
        model={"name": "atlas", "fingerprint": "f", "dtype": "float32"},
        dataset={"name": "atlas", "digest": "d", "n_records": 3},
        metrics=[{"name": metric} for metric in METRICS],
    )
    command = repeat_command(run, run.cells[0])
    assert command == f"editkit run-benchmark atlas --editor rome --limit 3{flags}"
    if changes.get("sources"):  # `run-benchmark` takes it
        assert main([*shlex.split(command)[1:], "--dry-run"]) == 0


def test_runs_have_their_editors_colour_and_no_two_share_one() -> None:
    installed = default_registry().names("editor")
    every = run_colors({name: name for name in installed} | {"ft (joint 2)": "ft"})
    assert len(set(every.values())) == len(installed) + 1
    first = {"a": "mend-cf", "b": "ft+l", "c": "kn"}  # other installed editors have their hues
    own = {label: style.color.lower() for label, style in styles_of(first).items()}
    assert run_colors(first) == own
    later = run_colors({**first, "d": "mend", "e": "lora"})
    assert {label: later[label] for label in first} == own
    assert len(set(later.values())) == len(later)
