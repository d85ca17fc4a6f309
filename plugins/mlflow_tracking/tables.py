"""The tables among the artifacts of a run: its scores with their intervals, records, and texts.

MLflow compares tables of several runs by grouping on the first column and showing the second column
of every run side by side. So the first column of all our tables names the case and its edit, or the
score, and the second one shows what the editor achieved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit import EditRequest, Score
from editkit.benchmark.aggregate import SUMMARY, Estimate
from editkit.benchmark.store import requests_of
from editkit.report.tables import score_entry
from editkit_plugins.mlflow_tracking.content import table_json

if TYPE_CHECKING:
    from editkit.results import Row, Run

INTERVALS = "intervals.json"
RECORDS = "records.json"
GENERATIONS = "generations.json"
_MOST_RECORDS = 500
_MOST_RECORDS_WITH_TEXTS = 100  # a record has some kilobytes of text
_MOST_SCORES = 4
_DECIMALS = 6  # of fractions; `summary.json` has all

Requests = Mapping[int, tuple[EditRequest, ...]]


def tables_of(run: Run, rows: Sequence[Row], document: Mapping[str, Any]) -> dict[str, str]:
    """Tables by file name, as the JSON of MLflow's table viewer; MLflow opens the first one.

    Args:
        run: The benchmark run.
        rows: The rows of a cell.
        document: The cell as in ``run-benchmark --json``.
    """
    requests = requests_of(run)
    tables = {
        INTERVALS: table_json(list(_interval_lines(run, document))),
        RECORDS: table_json([_record_line(run, row, requests) for row in rows[:_MOST_RECORDS]]),
    }
    with_texts = [row for row in rows if row.texts][:_MOST_RECORDS_WITH_TEXTS]
    if with_texts:
        lines = [line for row in with_texts for line in _text_lines(row, requests)]
        tables[GENERATIONS] = table_json(lines)
    return tables


def _interval_lines(run: Run, document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every score with its 95% interval; those of a sequence at each of its checkpoints."""
    known = {score.key: score for score in (SUMMARY, *run.scores, *run.model_scores)}
    for state in document["checkpoints"] or [document]:
        after = f" after {state['at']}" if document["checkpoints"] else ""
        newest = {f"newest/{key}": value for key, value in state.get("newest", {}).items()}
        values_of = {**state["metrics"], **newest, **state["models"]}
        for name in sorted(values_of, key=lambda name: name != SUMMARY.key):
            values = values_of[name]
            score = known.get(name.removeprefix("newest/"), Score(name))
            label = "" if name.startswith("newest/") or not score.label else f"{score.label} · "
            yield {
                "score": f"{label}{name}{after}",
                "estimate": score_entry(score, Estimate(**values)).plain,
                "n": values["n"],
                **{key: _rounded(values[key]) for key in ("mean", "ci_low", "ci_high")},
            }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DECIMALS)


def _record_line(run: Run, row: Row, requests: Requests) -> dict[str, Any]:
    declared = {score.key: row.scores[score.key] for score in run.scores if score.key in row.scores}
    line = {
        "case": _case(row, requests),
        "result": _result(run, row),
        "case_id": row.case_id,
        **_edit(row, requests),
        **declared,
        **row.scores,
        "edit_s": row.times.get("edit_s"),
    }
    return line if row.error is None else {**line, "error": row.error}


def _text_lines(row: Row, requests: Requests) -> list[dict[str, Any]]:
    return [
        {
            "case": _case(row, requests, f"{kind} {place}"),
            "result": text,
            "case_id": row.case_id,
            **_edit(row, requests),
            kind: place,
        }
        for kind in sorted(row.texts)
        for place, text in enumerate(row.texts[kind], start=1)
    ]


def _case(row: Row, requests: Requests, *which: str) -> str:
    """``0 · generation 1 · Bronco is made by → Honda``."""
    edits = [f"{each.sentence} → {each.target_new}" for each in requests.get(row.case_id, ())]
    return " · ".join([str(row.case_id), *which, *edits])


def _edit(row: Row, requests: Requests) -> dict[str, Any]:
    """Prompt, objects and relation of the edit; of several edits, joined by semicolons."""
    own = requests.get(row.case_id)
    if not own:
        return {}
    return {
        "prompt": _joined(each.sentence for each in own),
        "target": _joined(each.target_new for each in own),
        "was": _joined(each.target_true for each in own),
        "relation": _joined(each.relation_id for each in own),
    }


def _joined(texts: Iterable[str | None]) -> str | None:
    return "; ".join(filter(None, texts)) or None


def _result(run: Run, row: Row) -> str:
    """The main scores: ``ES 100.0 · PS 50.0 · NS 90.0``."""
    if row.status == "failed":
        return f"failed: {row.error}"
    present = [score for score in run.scores if score.label and score.key in row.scores]
    main = [score for score in present if score.summary] or present[:_MOST_SCORES]
    return " · ".join(f"{score.label} {_printed(score, row.scores[score.key])}" for score in main)


def _printed(score: Score, value: float) -> str:
    return score_entry(score, Estimate(value, value, value, 0)).plain
