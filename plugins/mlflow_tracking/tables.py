"""Tables of single records and texts, laid out for MLflow's viewers.

Its comparison of tables across runs groups by the first column and lays the second one of all runs
side by side, unless told otherwise: the first says which case it is and what is edited, the second
what an editor made of it. Every table calls them the same, so that choosing another is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit import EditRequest, Score
from editkit.benchmark.aggregate import Estimate
from editkit.benchmark.store import requests_of
from editkit.report.tables import score_entry
from editkit_plugins.mlflow_tracking.page import table

if TYPE_CHECKING:
    from editkit.results import Row, Run

RECORDS = "records.json"
GENERATIONS = "generations.json"
_MOST_RECORDS = 500
_MOST_WRITERS = 100  # a record's texts are some kilobytes
_MOST_SCORES = 4

Requests = Mapping[int, EditRequest]


def tables(run: Run, rows: Sequence[Row]) -> dict[str, str]:
    """Tables by file name: of the first records, and of what the first of them made a model write.

    Args:
        run: The run.
        rows: The rows of one of its cells.
    """
    requests = requests_of(run)
    records = [_record(run, row, requests) for row in rows[:_MOST_RECORDS]]
    found = {RECORDS: table(records)}
    writers = [row for row in rows if row.texts][:_MOST_WRITERS]
    if writers:
        found[GENERATIONS] = table([line for row in writers for line in _texts(row, requests)])
    return found


def _record(run: Run, row: Row, requests: Requests) -> dict[str, Any]:
    """Which case, the main scores in short, the edit, all scores in the table's order, its fate."""
    declared = {score.key: row.scores[score.key] for score in run.scores if score.key in row.scores}
    request = requests.get(row.case_id)
    line = {
        "case": _case(row, requests),
        "result": _result(run, row),
        "case_id": row.case_id,
        **({} if request is None else _edit(request)),
        **declared,
        **row.scores,
        "edit_s": row.times.get("edit_s"),
    }
    return line if row.error is None else {**line, "error": row.error}


def _texts(row: Row, requests: Requests) -> list[dict[str, Any]]:
    request = requests.get(row.case_id)
    return [
        {
            "case": _case(row, requests, f"{kind} {place}"),
            "result": text,
            "case_id": row.case_id,
            **({} if request is None else _edit(request)),
            kind: place,
        }
        for kind in sorted(row.texts)
        for place, text in enumerate(row.texts[kind], start=1)
    ]


def _case(row: Row, requests: Requests, *which: str) -> str:
    """``0 · generation 1 · Bronco is made by → Honda``: what is short comes first."""
    request = requests.get(row.case_id)
    edit = [] if request is None else [f"{request.sentence} → {request.target_new}"]
    return " · ".join([str(row.case_id), *which, *edit])


def _edit(request: EditRequest) -> dict[str, Any]:
    return {
        "prompt": request.sentence,
        "target": request.target_new,
        "was": request.target_true,
        "relation": request.relation_id,
    }


def _result(run: Run, row: Row) -> str:
    """``ES 100.0 · PS 50.0 · NS 90.0``: the scores that the summary is made of."""
    if row.status == "failed":
        return f"failed: {row.error}"
    had = [score for score in run.scores if score.label and score.key in row.scores]
    main = [score for score in had if score.summary] or had[:_MOST_SCORES]
    return " · ".join(f"{score.label} {_told(score, row.scores[score.key])}" for score in main)


def _told(score: Score, value: float) -> str:
    return score_entry(score, Estimate(value, value, value, 0)).plain
