"""From a benchmark run to MLflow pages, as cells finish and when a store is replayed."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from editkit import TrackingError
from editkit.benchmark.aggregate import SUMMARY as TOTAL
from editkit.benchmark.aggregate import Estimate, cell_document
from editkit.benchmark.store import is_complete, rows_of, runs_in
from editkit.editing.outcomes import KINDS
from editkit.report.labels import labels_of, run_key
from editkit.report.tables import CELL_COLUMNS, score_entry
from editkit_plugins.mlflow_tracking import view
from editkit_plugins.mlflow_tracking.database import shown, tracking_uri
from editkit_plugins.mlflow_tracking.page import Page, entity_name, finite, parameters
from editkit_plugins.mlflow_tracking.tables import tables
from editkit_plugins.mlflow_tracking.tracker import Tracker
from editkit_plugins.mlflow_tracking.view import SUMMARY

if TYPE_CHECKING:
    from editkit.results import Cell, Row, Run

_DEFAULTS = {"preset": (None, "published"), "seed": (0,)}
"""What a run's name does not mention."""
_PACKAGES = ("editkit", "torch", "transformers", "tokenizers", "safetensors", "numpy", "mlflow")
_log = logging.getLogger("editkit.mlflow")


def cell_finished(run: Run, cell: Cell) -> None:
    """Show a finished cell; if MLflow cannot be reached now, the run's end tries again."""
    try:
        publish(run, [cell])
    except TrackingError as error:
        _log.warning("%s Trying again when the run ends.", error.message)


def run_finished(run: Run) -> dict[str, Any]:
    """Show what is not shown yet, and say where everything is.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    tracker, run_ids = publish(run, run.cells)
    return {
        "mlflow": {
            "tracking_uri": shown(tracker.uri),
            "experiment_id": tracker.experiment_id,
            "run_ids": run_ids,
        }
    }


def publish(run: Run, cells: Sequence[Cell], *, anew: bool = False) -> tuple[Tracker, list[str]]:
    """Write the complete ones among some cells of a run to MLflow.

    A cell with records missing (a shard's) is left out: its means would look like results.

    Returns:
        The experiment, and the ids of the MLflow runs, in the order of the cells.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    tracker = Tracker(
        tracking_uri(run.out),
        experiment=experiment_name(run.benchmark),
        note=_note(run),
        tags={view.TAG: view.shared_view(run.scores)},
    )
    complete = [cell for cell in cells if run.dataset["n_records"] and is_complete(run, cell)]
    return tracker, [
        tracker.publish(page_of(run, cell), anew=anew, environment=environment())
        for cell in complete
    ]


def experiment_name(benchmark: str) -> str:
    """The MLflow experiment that a benchmark's runs belong to."""
    return f"editkit/{benchmark}"


def page_of(run: Run, cell: Cell) -> Page:
    """What MLflow is told about a cell: the same by the run itself and by its replay."""
    rows, summary = rows_of(run, cell), cell_document(run, cell)
    finished = max(row.completed_at for row in rows)
    # Rows of one batch are stored together and a run may pause for days between two: only the
    # seconds that were spent tell how long a cell takes.
    started = finished - sum(_seconds(row) for row in rows)
    shown_tables = tables(run, rows)
    tags = {
        "editor": cell.editor,
        "preset": cell.preset,
        "model": run.model["name"],
        "dataset": run.dataset["name"],
        "benchmark": run.benchmark,
        "seed": cell.seed,
        "editkit.model_fingerprint": run.model.get("fingerprint"),
        "editkit.editor_version": f"{cell.distribution} {cell.version}",
        "mlflow.source.name": f"editkit run-benchmark {run.benchmark}",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": _remark(rows, summary["edits"]["summary"]),
        "editkit.edits": summary["edits"]["summary"],
        "mlflow.loggedArtifacts": json.dumps(
            [{"path": name, "type": "table"} for name in shown_tables]
        ),
        **_told(run, summary),
    }
    return Page(
        fingerprint=cell.fingerprint,
        name=_name(run, cell),
        started=_milliseconds(started),
        finished=_milliseconds(finished),
        params=parameters(cell.params),
        metrics=_metrics(summary),
        tags={key: str(value) for key, value in tags.items() if value not in (None, "")},
        dataset={
            "name": run.dataset["name"],
            "digest": run.dataset["digest"],
            "source": json.dumps(run.dataset.get("config") or {}, default=str, sort_keys=True),
        },
        files={
            "config.yaml": yaml.safe_dump(_plain(run.describe(cell))),
            "summary.json": json.dumps(_plain(summary), indent=2),
            **shown_tables,
        },
        records=[_record(row) for row in rows],
    )


def environment() -> dict[str, Any]:
    """What the results were, as far as this process knows, computed with."""
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
    # A benchmark, its model and its dataset often share one name: say it once.
    label = _label(run, cell)
    parts = [label, str(run.model["name"]), str(run.dataset["name"])]
    if cell.preset not in _DEFAULTS["preset"] and str(cell.preset) not in label:
        parts.append(str(cell.preset))
    if cell.seed not in _DEFAULTS["seed"] and f"seed {cell.seed}" not in label:
        parts.append(f"seed {cell.seed}")
    return " · ".join(dict.fromkeys(parts))


def _label(run: Run, cell: Cell) -> str:
    """The editor, with what tells it from its namesakes: in this run, and earlier in its folder."""
    cells = {
        own.fingerprint: own
        for other in (*runs_in(run.out), run)
        if (other.benchmark, run_key(other)) == (run.benchmark, run_key(run))
        for own in other.cells
    }
    labels = labels_of(dataclasses.replace(run, cells=tuple(cells.values())))
    return dict(zip(cells, labels, strict=True))[cell.fingerprint]


def _told(run: Run, summary: Mapping[str, Any]) -> dict[str, str]:
    """The cell's line of the table, by column: ``{"S": "94.2 ±1.7", ...}``."""
    estimates = summary["metrics"]
    numbers = {
        entity_name(score.label): score_entry(score, Estimate(**estimates[score.key])).plain
        for score in (TOTAL, *run.scores)
        if score.label and score.key in estimates
    }
    return {
        **numbers,
        **{head: column(summary) for head, column in CELL_COLUMNS.items()},
    }


def _metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    estimates = summary["metrics"]
    first = [SUMMARY] if SUMMARY in estimates else []
    metrics: dict[str, float | None] = {}
    for key in [*first, *(key for key in estimates if key != SUMMARY)]:
        metrics[key] = estimates[key]["mean"]
        metrics[f"{key}_ci_low"] = estimates[key]["ci_low"]
        metrics[f"{key}_ci_high"] = estimates[key]["ci_high"]
    for group in ("time", "memory", "records"):
        metrics.update({f"{group}/{key}": value for key, value in summary[group].items()})
    metrics.update({f"edits/{kind}": summary["edits"][kind] for kind in KINDS})
    return finite(metrics)


def _record(row: Row) -> dict[str, Any]:
    """All of a row, flat: identity, scores, times, then the details per prompt."""
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


def _remark(rows: Sequence[Row], troubles: str) -> str:
    """What a reader must know who looks at one MLflow run alone."""
    parts = [f"**Edits that did not work:** {troubles}"] if troubles else []
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        reasons = "\n".join(f"- case {row.case_id}: {row.error}" for row in failed[:10])
        parts.append(
            f"**{len(failed)} of {len(rows)} records failed** and are in no score:\n\n{reasons}"
        )
    return "\n\n".join(parts)


def _note(run: Run) -> str:
    """The experiment's description."""
    labelled = [score for score in run.scores if score.label]
    lines = [f"| {score.label} | `{score.key}` |" for score in labelled]
    return "\n".join(
        [
            f"Benchmark **{run.benchmark}** of editkit: one run per editor. Scores are fractions, "
            "means over records; `_ci_low` and `_ci_high` bound their 95% interval. "
            f"`{SUMMARY}` (S) is the harmonic mean of the scores it sums up. "
            "Sort by it to rank editors; the editor `none` is the unedited model.",
            "",
            "| table | metric |",
            "|---|---|",
            f"| S | `{SUMMARY}` |",
            *lines,
        ]
    )


def _seconds(row: Row) -> float:
    return sum(row.times.get(key, 0.0) for key in ("edit_s", "score_s"))


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _plain(value: Any) -> Any:
    """``value`` as YAML and JSON can hold it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.loads(json.dumps(value, default=str))
