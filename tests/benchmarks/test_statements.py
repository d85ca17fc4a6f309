"""Statements of the paper: every one can be tried, and verdicts follow from the stored rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from editkit import Failure, Score
from editkit.benchmark.store import Store
from editkit.results import STORE_FILE, Cell, Row, Run
from editkit_benchmarks.experiments.spec import known_experiments
from editkit_benchmarks.statements.__main__ import main
from editkit_benchmarks.statements.checks import (
    Check,
    above,
    all_of,
    below,
    effect_above,
    effect_above_in_all,
    fails_in,
    grows_after,
    only_without_failures,
    unchanged,
)
from editkit_benchmarks.statements.results import MissingResultsError, Results
from editkit_benchmarks.statements.statements import STATEMENTS

ES, NS = "efficacy/score", "neighborhood/score"
SCORES = (
    Score(ES, "ES", summary=True),
    Score(NS, "NS", summary=True, failure=Failure("specificity", 0.75)),
)
VALUES: Mapping[str, Sequence[tuple[float, float]]] = {
    "none": [(0.0, 1.0)] * 8,
    "good": [(0.9, 0.95), (1.0, 1.0)] * 4,
    "same": [(1.0, 0.95), (0.9, 1.0)] * 4,
    "wild": [(0.8, 0.2), (1.0, 0.3)] * 4,
}
YES, NO, OPEN = True, False, None


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Four editors on eight records."""
    cells = tuple(
        Cell(editor, None, {"layer": 1}, {}, "d", "1", 0, f"{editor}-0123456789", {})
        for editor in VALUES
    )
    run = Run(
        out=tmp_path,
        benchmark="b",
        model={"name": "m", "fingerprint": "f", "dtype": "float32"},
        dataset={"name": "d", "digest": "d", "n_records": 8, "config": {}, "rejected": 0},
        metrics=({"name": "efficacy", "protocol": "p"},),
        scores=SCORES,
        seeds=(0,),
        cells=cells,
        batch=8,
    )
    with Store(tmp_path / STORE_FILE) as store:
        for cell in cells:
            store.put_cell(cell.fingerprint, run.describe(cell))
            rows = [
                Row(case, "done", dict(zip((ES, NS), values, strict=True)))
                for case, values in enumerate(VALUES[cell.editor])
            ]
            store.put_rows(cell.fingerprint, rows)
    return Results(tmp_path)


@pytest.mark.parametrize(
    ("check", "holds", "numbers"),
    [
        (above(NS, ("good", {}), ("wild", {})), YES, "NS 97.5 (good) against 25.0 (wild), +72.5"),
        (above(NS, ("wild", {}), ("good", {})), NO, "-72.5"),
        (above(ES, ("good", {"layer": 1})), OPEN, "ES 95.0 (good) against 95.0 (same), +0.0"),
        (above("summary/score", ("good", {}), ("wild", {})), YES, "S 96.2 (good) against 39.1"),
        (below(NS, ("wild", {}), 50), YES, "NS 25.0 ± 3.5 (wild)"),
        (below(NS, ("wild", {}), 25), OPEN, "25.0"),
        (below(NS, ("good", {}), 50), NO, "97.5"),
        (fails_in({"good": set(), "wild": {"specificity"}}), YES, "good: none; wild: specificity"),
        (fails_in({"good": {"specificity"}}), NO, "good: none"),
        (
            unchanged(NS, ("good", "same"), 5),
            YES,
            "NS against unedited: good -2.5 ± 1.7, same -2.5",
        ),
        (unchanged(NS, ("good", "wild"), 5), NO, "wild -75.0"),
        (unchanged(NS, ("good",), 3), OPEN, "good -2.5"),
        (only_without_failures("good"), NO, "good: none; same: none; wild: specificity"),
        (all_of(below(NS, ("wild", {}), 50), below(NS, ("wild", {}), 25)), OPEN, "; NS 25.0"),
        (all_of(below(NS, ("good", {}), 50), below(NS, ("wild", {}), 25)), NO, "; NS 25.0"),
    ],
)
def test_scores_decide(results: Results, check: Check, holds: bool | None, numbers: str) -> None:
    verdict = check(results)
    assert verdict.holds is holds
    assert numbers in verdict.numbers


def put_traces(folder: Path, name: str, factor: float, after: str | None = None) -> None:
    """Six facts on four layers; the MLPs' early effect at the subject is ``factor``."""
    identity: dict[str, Any] = {"kind": "trace", "name": name}
    if after:
        identity["after"] = {"editor": after}
    with Store(folder / STORE_FILE) as store:
        store.put_cell(name, identity)
        rows = [Row(6, "done", {"predicted": 0.0}), Row(7, "failed", error="no")]
        for case in range(6):
            shift = 0.01 * (case % 2)
            details = {
                "mlp/last subject token": [factor + shift, 0.0, 0.0, 0.0],
                "attn/last subject token": [0.0, 0.1 - shift, 0.0, 0.0],
                "mlp/last token": [0.5, 0.0, 0.1, 0.0],
                "attn/last token": [0.0, 0.0, 0.0, 0.3 + shift],
            }
            rows.append(Row(case, "done", {"predicted": 1.0}, details=details))
        store.put_rows(name, rows)


EARLY = ("mlp", "last subject token"), ("attn", "last subject token")
LATE = ("attn", "last token"), ("mlp", "last token")


def test_traces_decide(tmp_path: Path) -> None:
    put_traces(tmp_path, "one", 0.4)
    results = Results(tmp_path)
    early = effect_above(*EARLY)(results)
    assert early.holds is True
    assert early.numbers == (
        "mlp against attn at the last subject token: 0.405 (layer 0) against 0.095 (layer 1), "
        "+0.310 ± 0.008"
    )
    assert effect_above(*reversed(EARLY))(results).holds is False
    assert effect_above(*LATE)(results).holds is False
    assert effect_above(*LATE, late=True)(results).holds is True
    same = effect_above(*EARLY, same_layer=True)(results)
    assert "0.405 (layer 0) against 0.000 (layer 0)" in same.numbers
    with pytest.raises(MissingResultsError):
        effect_above(("state", "last token"), LATE[0])(results)


def test_all_settings_must_agree(tmp_path: Path) -> None:
    put_traces(tmp_path, "one", 0.4)
    put_traces(tmp_path, "two", 0.2)
    verdict = effect_above_in_all(*EARLY)(Results(tmp_path))
    assert verdict.holds is True
    assert verdict.numbers.endswith("+0.110 ± 0.008 to +0.310 ± 0.008 in 2 settings")
    put_traces(tmp_path, "three", 0.0)
    assert effect_above_in_all(*EARLY)(Results(tmp_path)).holds is False


def test_growth_after_an_edit(tmp_path: Path) -> None:
    put_traces(tmp_path, "before", 0.2)
    put_traces(tmp_path, "after", 0.5, after="rome")
    verdict = grows_after("rome", *EARLY[0])(Results(tmp_path))
    assert (verdict.holds, verdict.numbers[-14:]) == (True, "+0.300 ± 0.000")
    with pytest.raises(MissingResultsError):
        grows_after("ft", *EARLY[0])(Results(tmp_path))


def test_every_statement_belongs_to_an_experiment() -> None:
    assert {each.experiment for each in STATEMENTS} < set(known_experiments())
    assert len({each.text for each in STATEMENTS}) == len(STATEMENTS)


def test_missing_results_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "zsre").mkdir()
    assert main([str(tmp_path)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + len(STATEMENTS)
    assert all("`editkit run-experiment" in row for row in rows[2:])
    assert [path.name for path in tmp_path.rglob("*")] == ["zsre"]  # nothing is written
    assert main([str(tmp_path / "zsre")]) == 2
    assert f"output folder: {tmp_path}." in capsys.readouterr().err
