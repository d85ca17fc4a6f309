"""Cells of a benchmark as MLflow runs, logged during a run or when a store is exported.

MLflow compares tables of several runs by grouping on the first column and showing the second column
of every run side by side. So the first column of all our tables names the case and its edit, and
the second one shows what the editor achieved.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import math
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from editkit import EditRequest, Score, TrackingError
from editkit.benchmark.aggregate import SUMMARY, Estimate, cell_document
from editkit.benchmark.completeness import is_complete
from editkit.benchmark.samples import series_of
from editkit.benchmark.store import requests_of, rows_of, runs_in
from editkit.editing.outcomes import KINDS
from editkit.report.labels import labels_of, run_key
from editkit.report.tables import CELL_COLUMNS, score_entry
from editkit_plugins.mlflow_tracking import view
from editkit_plugins.mlflow_tracking.content import (
    RunContent,
    finite_metrics,
    flat_params,
    milliseconds,
    mlflow_name,
    table_json,
)
from editkit_plugins.mlflow_tracking.database import tracking_uri
from editkit_plugins.mlflow_tracking.tracker import Tracker

if TYPE_CHECKING:
    from editkit.results import Cell, Row, Run

RECORDS = "records.json"
GENERATIONS = "generations.json"
_MOST_RECORDS = 500
_MOST_RECORDS_WITH_TEXTS = 100  # a record has some kilobytes of text
_MOST_SCORES = 4
_SECONDS_BETWEEN = 60.0
"""MLflow takes seconds to load and to be asked, and 170 MB of memory next to an editor."""
_DEFAULTS = {"preset": (None, "published"), "seed": (0,)}
"""Values that a run's name omits."""
_PACKAGES = ("editkit", "torch", "transformers", "tokenizers", "safetensors", "numpy", "mlflow")
_log = logging.getLogger("editkit.mlflow")

Requests = Mapping[int, tuple[EditRequest, ...]]


@dataclasses.dataclass
class _Logged:
    """Cells of one run that are up to date in MLflow: label and id of the MLflow run of each.

    ``last`` is when the run started or logged last, by ``time.monotonic``.
    """

    run: Run | None = None
    cells: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    last: float = -math.inf

    def of(self, run: Run) -> dict[str, tuple[str, str]]:
        """The cells of this run, by fingerprint; those of another run are dropped."""
        if self.run is not run:
            self.run, self.cells, self.last = run, {}, -math.inf
        return self.cells


_logged = _Logged()


def run_started(run: Run) -> None:
    """Start the clock: a run that is over before :data:`_SECONDS_BETWEEN` logs at its end."""
    _logged.of(run)
    _logged.last = time.monotonic()


def cell_finished(run: Run) -> None:
    """Log finished cells, at most once a minute; the end of the run logs the others.

    If MLflow cannot be reached, the end of the run tries again.
    """
    _logged.of(run)
    if time.monotonic() - _logged.last < _SECONDS_BETWEEN:
        return
    _logged.last = time.monotonic()
    try:
        _log_new(run)
    except TrackingError as error:
        _log.warning("%s Trying again when the run ends.", error.message)


def run_finished(run: Run) -> dict[str, Any]:
    """Log cells that are not logged yet.

    Returns:
        Tracking URI, experiment id and run ids under the key ``mlflow``.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses a request.
    """
    tracker = _log_new(run)
    logged = _logged.of(run)
    _logged.run = None  # rows may change after the run
    return tracker.document(
        [logged[cell.fingerprint][1] for cell in run.cells if cell.fingerprint in logged]
    )


def _log_new(run: Run) -> Tracker:
    """Log finished cells that are not logged yet, or whose label has changed since."""
    logged, labels = _logged.of(run), _labels(run)
    new = [
        cell
        for cell in _complete(run, run.cells)
        if logged.get(cell.fingerprint, ("",))[0] != labels[cell.fingerprint]
    ]
    tracker, run_ids = log_cells(run, new)
    for cell, run_id in zip(new, run_ids, strict=True):
        logged[cell.fingerprint] = labels[cell.fingerprint], run_id
    return tracker


def _complete(run: Run, cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if run.dataset["n_records"] and is_complete(run, cell)]


def log_cells(
    run: Run, cells: Sequence[Cell], *, rewrite: bool = False
) -> tuple[Tracker, list[str]]:
    """Write the complete cells among ``cells`` to MLflow.

    Incomplete cells (of a shard) are skipped: their means would look like results.

    Args:
        run: The run.
        cells: Some of its cells.
        rewrite: Write all content again, even if the MLflow run is up to date.

    Returns:
        The tracker of the experiment, and the ids of the MLflow runs in the order of the cells.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses a request.
    """
    tracker = Tracker(
        tracking_uri(run.out),
        experiment=experiment_name(run.benchmark),
        note=_description(run),
        tags={view.TAG: view.benchmark_view(run.scores)},
    )
    complete = _complete(run, cells)
    return tracker, [
        tracker.log(content_of(run, cell), rewrite=rewrite, environment=environment())
        for cell in complete
    ]


def experiment_name(benchmark: str) -> str:
    """Name of the MLflow experiment of a benchmark."""
    return f"editkit/{benchmark}"


def content_of(run: Run, cell: Cell) -> RunContent:
    """The MLflow run of a cell; it depends only on the store, so an export repeats it exactly."""
    rows, document = rows_of(run, cell), cell_document(run, cell)
    finished = max(row.completed_at for row in rows)
    # A run may pause for days, and rows of one batch are stored together, so the timestamps of
    # rows do not show how long a cell takes. The seconds spent on its records do.
    started = finished - sum(_seconds(row) for row in rows)
    tables = _tables(run, rows)
    tags = {
        "editor": cell.editor,
        "preset": cell.preset,
        "model": run.model["name"],
        "dataset": run.dataset["name"],
        "benchmark": run.benchmark,
        "seed": cell.seed,
        "edits": "" if cell.regime.is_independent else cell.regime.label,
        "editkit.model_fingerprint": run.model.get("fingerprint"),
        "editkit.editor_version": f"{cell.distribution} {cell.version}",
        "mlflow.source.name": f"editkit run-benchmark {run.benchmark}",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": _run_description(rows, document["edits"]["summary"]),
        "editkit.edits": document["edits"]["summary"],
        "mlflow.loggedArtifacts": json.dumps([{"path": name, "type": "table"} for name in tables]),
        **_table_line(run, document),
    }
    return RunContent(
        fingerprint=cell.fingerprint,
        name=_name(run, cell),
        started=milliseconds(started),
        finished=milliseconds(finished),
        params=flat_params({**cell.params, **_edits(cell)}),
        metrics=_metrics(document),
        curves=_curves(run, cell, document),
        tags={key: str(value) for key, value in tags.items() if value not in (None, "")},
        dataset={
            "name": run.dataset["name"],
            "digest": run.dataset["digest"],
            "source": json.dumps(run.dataset.get("config") or {}, default=str, sort_keys=True),
        },
        files={
            "config.yaml": yaml.safe_dump(_plain(run.describe(cell))),
            "summary.json": json.dumps(_plain(document), indent=2),
            **tables,
        },
        records=[_flat(row) for row in rows],
    )


def environment() -> dict[str, Any]:
    """Versions and machine of this process."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "packages": versions,
    }


def _name(run: Run, cell: Cell) -> str:
    label = _labels(run)[cell.fingerprint]
    parts = [label, str(run.model["name"]), str(run.dataset["name"])]
    if cell.preset not in _DEFAULTS["preset"] and str(cell.preset) not in label:
        parts.append(str(cell.preset))
    if cell.seed not in _DEFAULTS["seed"] and f"seed {cell.seed}" not in label:
        parts.append(f"seed {cell.seed}")
    return " · ".join(dict.fromkeys(parts))  # model and dataset may have the same name


def _labels(run: Run) -> dict[str, str]:
    """The labels of cells by fingerprint, among all cells of similar runs in the output folder."""
    runs: list[Run] = [*runs_in(run.out), run]
    cells = {
        own.fingerprint: own
        for other in runs
        if (other.benchmark, run_key(other)) == (run.benchmark, run_key(run))
        for own in other.cells
    }
    labels = labels_of(dataclasses.replace(run, cells=tuple(cells.values())))
    return dict(zip(cells, labels, strict=True))


def _table_line(run: Run, document: Mapping[str, Any]) -> dict[str, str]:
    """The cell's line in the table of scores, by column: ``{"S": "94.2 ±1.7", ...}``."""
    estimates = {**document["metrics"], **document["models"]}
    numbers = {
        mlflow_name(score.label): score_entry(score, Estimate(**estimates[score.key])).plain
        for score in (SUMMARY, *run.scores, *run.model_scores)
        if score.label and score.key in estimates
    }
    return {**numbers, **{head: column(document) for head, column in CELL_COLUMNS.items()}}


def _edits(cell: Cell) -> dict[str, str | int]:
    """The regime as parameters: ``edits``, and its numbers if facts share models."""
    regime = cell.regime
    params: dict[str, str | int] = {"edits": regime.label}
    if not regime.is_independent:
        params["edits.facts"] = regime.facts
    if regime.kind == "sequential":
        params["edits.step"] = regime.step
    return params


def _metrics(document: Mapping[str, Any]) -> dict[str, float]:
    """Metrics with a single value; the scores of a sequence are curves."""
    metrics: dict[str, float | None] = {}
    if not document["checkpoints"]:
        metrics = {**_bounded(document["metrics"]), **_bounded(document["models"])}
    for group in ("time", "memory", "records"):
        metrics.update({f"{group}/{key}": value for key, value in document[group].items()})
    metrics.update({f"edits/{kind}": document["edits"][kind] for kind in KINDS})
    return finite_metrics(metrics)


def _bounded(estimates: Mapping[str, Any]) -> dict[str, float | None]:
    """Means with their bounds, the summary score first; bounds are None without an interval."""
    first = [SUMMARY.key] if SUMMARY.key in estimates else []
    metrics: dict[str, float | None] = {}
    for key in [*first, *(key for key in estimates if key != SUMMARY.key)]:
        metrics[key] = estimates[key]["mean"]
        metrics[f"{key}_ci_low"] = estimates[key]["ci_low"]
        metrics[f"{key}_ci_high"] = estimates[key]["ci_high"]
    return metrics


def _curves(
    run: Run, cell: Cell, document: Mapping[str, Any]
) -> dict[str, list[tuple[int, float, int]]]:
    """The scores of a sequence at its checkpoints; the step is the number of facts in the model."""
    curves: dict[str, list[tuple[int, float, int]]] = {}
    if not document["checkpoints"]:
        return curves
    [series] = series_of(run, [cell])
    for state, checkpoint in zip(series.states, document["checkpoints"], strict=True):
        models = [row for rows in state.models.values() for row in rows]
        completed = [row.completed_at for row in state.facts.rows]
        completed += [row.completed_at for row in models]
        newest = {f"newest/{key}": each["mean"] for key, each in checkpoint["newest"].items()}
        values = {**_bounded(checkpoint["metrics"]), **newest, **_bounded(checkpoint["models"])}
        for key, value in finite_metrics(values).items():
            point = (state.at, value, milliseconds(max(completed)))
            curves.setdefault(key, []).append(point)
    return curves


def _flat(row: Row) -> dict[str, Any]:
    """All of a row: identity, scores, times, then one list per key of the details."""
    return {
        "case_id": row.case_id,
        "status": row.status,
        **row.scores,
        **{f"time/{key}": value for key, value in row.times.items()},
        "error": row.error,
        "completed_at": row.completed_at,
        "notes": json.dumps(_plain(row.notes)) if row.notes else None,
        **row.details,
    }


def _run_description(rows: Sequence[Row], outcomes: str) -> str:
    """What went wrong in the cell, in Markdown; empty if nothing did."""
    parts = [f"**Edits that did not work:** {outcomes}"] if outcomes else []
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        reasons = "\n".join(f"- case {row.case_id}: {row.error}" for row in failed[:10])
        parts.append(
            f"**{len(failed)} of {len(rows)} records failed** and are excluded from all scores:"
            f"\n\n{reasons}"
        )
    return "\n\n".join(parts)


def _description(run: Run) -> str:
    """The description of the experiment, in Markdown."""
    labelled = [score for score in run.scores if score.label]
    lines = [f"| {score.label} | `{score.key}` |" for score in labelled]
    return "\n".join(
        [
            f"Benchmark **{run.benchmark}** of editkit: one run per editor. Scores are fractions, "
            "averaged over records; `_ci_low` and `_ci_high` bound their 95% interval. "
            f"`{SUMMARY.key}` (S) is the harmonic mean of the main scores. "
            "Sort by it to rank editors; the editor `none` is the unedited model.",
            "",
            "| table | metric |",
            "|---|---|",
            f"| S | `{SUMMARY.key}` |",
            *lines,
        ]
    )


def _seconds(row: Row) -> float:
    return sum(row.times.get(key, 0.0) for key in ("edit_s", "score_s"))


def _plain(value: Any) -> Any:
    """``value`` with texts in place of everything that JSON and YAML cannot hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.loads(json.dumps(value, default=str))


# ---------------------------------------------------------------- tables


def _tables(run: Run, rows: Sequence[Row]) -> dict[str, str]:
    """Tables by file name: the first records, and the texts of the first records with texts."""
    requests = requests_of(run)
    records = [_record_line(run, row, requests) for row in rows[:_MOST_RECORDS]]
    tables = {RECORDS: table_json(records)}
    with_texts = [row for row in rows if row.texts][:_MOST_RECORDS_WITH_TEXTS]
    if with_texts:
        lines = [line for row in with_texts for line in _text_lines(row, requests)]
        tables[GENERATIONS] = table_json(lines)
    return tables


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
