"""A stored run with independent edits, a joint edit and sequences, written without a model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from editkit import EditRequest, Score
from editkit.benchmark.store import Store
from editkit.regimes import INDEPENDENT, Regime
from editkit.results import Cell, ModelRow, Row, Run

N = 20
SEEDS = 6  # facts of odd seeds score lower
SCORES = (
    Score("efficacy/score", "ES", summary=True, at_edit=True),
    Score("neighborhood/score", "NS", summary=True),
)
MODEL_SCORES = (
    Score("perplexity/value", "PPL", higher_is_better=False, scale=1.0),
    Score("perplexity/collapsed", "Coll", higher_is_better=False),
)
JOINT = Regime.joint(10)
SEQUENTIAL = Regime.sequential(20, checkpoints=[1, 10])
LOSSES = {"none": 0.0, "rome": 0.02, "memit": 0.005}
"""What a fact loses per fact that is written after it."""


def cell(editor: str, regime: Regime = INDEPENDENT, seed: int = 0) -> Cell:
    fingerprint = f"{editor}-{regime.kind}-{seed}"
    config = {"seed": seed, "layer": 3}
    params = {"editor": editor, "edits": regime.label, "seed": seed}
    return Cell(editor, None, config, {}, "d", "1", seed, fingerprint, params, regime.to_dict())


def row(editor: str, seed: int, i: int, **place: int) -> Row:
    age = max(place.get("checkpoint", 0) - place.get("place", 0), 0)
    efficacy = 1.0 - LOSSES[editor] * (age + seed % 2) if editor != "none" else 0.1
    scores = {"efficacy/score": efficacy, "neighborhood/score": 0.9 - LOSSES[editor] * age}
    return Row(i, "done", scores, times={"edit_s": 0.5}, completed_at=1e9 + age + i, **place)


def rows_of(each: Cell) -> tuple[list[Row], list[Row]]:
    """Rows at earlier checkpoints, and the last ones."""
    regime, seed = each.regime, each.seed
    if regime.is_independent:
        return [], [row(each.editor, seed, i) for i in range(N)]
    if regime.kind == "joint":
        places = [{"group": i // regime.facts, "place": i % regime.facts + 1} for i in range(N)]
        return [], [row(each.editor, seed, i, **place) for i, place in enumerate(places)]
    *earlier, end = (
        [row(each.editor, seed, i, place=i + 1, checkpoint=at) for i in range(at)]
        for at in regime.checkpoints
    )
    return [r for rows in earlier for r in rows], end


def models_of(each: Cell) -> list[ModelRow]:
    regime, loss = each.regime, LOSSES[each.editor]
    if regime.is_independent:
        return []
    marks = regime.checkpoints if regime.kind == "sequential" else (0,)
    groups = N // regime.facts
    return [
        ModelRow(
            group,
            mark,
            {
                "perplexity/value": 20.0 * (1 + loss * mark + each.seed % 2 * loss),
                "perplexity/collapsed": float(mark * loss * 5 > 1 - each.seed % 2 / 2),
            },
            completed_at=2e9 + mark,
        )
        for group in range(groups)
        for mark in marks
    ]


def shared_run(out: Path, **changes: Any) -> Run:
    cells = [cell(editor) for editor in LOSSES]
    cells += [cell(editor, JOINT) for editor in LOSSES]
    cells += [cell(editor, SEQUENTIAL, seed) for editor in LOSSES for seed in range(SEEDS)]
    run = Run(
        out=out,
        benchmark="shared",
        model={"name": "tiny", "fingerprint": "f" * 20, "dtype": "float32"},
        dataset={"name": "facts", "digest": "d" * 20, "n_records": N, "config": {}, "rejected": 0},
        metrics=({"name": "efficacy", "protocol": "e/v1"},),
        scores=SCORES,
        seeds=tuple(range(SEEDS)),
        cells=tuple(cells),
        batch=4,
        model_metrics=({"name": "perplexity", "protocol": "p/v1", "config": {"threshold": 10.0}},),
        model_scores=MODEL_SCORES,
    )
    return dataclasses.replace(run, **changes)


def write_shared(out: Path, **changes: Any) -> Run:
    run = shared_run(out, **changes)
    with Store(run.store) as store:
        requests = {
            i: (EditRequest("{} lives in", f"S{i}", "Rome", relation_id=f"P{i % 2}"),)
            for i in range(N)
        }
        store.put_requests(run.dataset["digest"], requests)
        for each in run.cells:
            store.put_cell(each.fingerprint, run.describe(each))
            earlier, last = rows_of(each)
            store.put_rows(each.fingerprint, earlier, ended=False)
            store.put_rows(each.fingerprint, last, models_of(each))
    return run
