"""Cells of a benchmark as MLflow runs, logged during a run or when a store is exported."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from editkit import TrackingError
from editkit.benchmark.aggregate import SUMMARY, Estimate, cell_document
from editkit.benchmark.completeness import is_complete
from editkit.benchmark.samples import series_of
from editkit.benchmark.store import rows_of, runs_in
from editkit.editing.outcomes import KINDS
from editkit.registry.values_label import values_from
from editkit.report.labels import labels_of, run_key
from editkit.report.tables import CELL_COLUMNS, score_entry
from editkit_plugins.mlflow_tracking import enclosures, view
from editkit_plugins.mlflow_tracking.colors import run_colors
from editkit_plugins.mlflow_tracking.content import (
    RunContent,
    finite_metrics,
    flat_params,
    milliseconds,
    mlflow_name,
)
from editkit_plugins.mlflow_tracking.database import tracking_uri
from editkit_plugins.mlflow_tracking.notes import experiment_note, run_note
from editkit_plugins.mlflow_tracking.tables import tables_of
from editkit_plugins.mlflow_tracking.tracker import Tracker

if TYPE_CHECKING:
    from editkit.results import Cell, Row, Run

_SECONDS_BETWEEN = 60.0
"""MLflow takes seconds to load and to be asked, and 170 MB of memory next to an editor."""
_DEFAULTS = {"preset": (None, "published"), "seed": (0,)}
"""Values that a run's name omits."""
_PACKAGES = ("editkit", "torch", "transformers", "tokenizers", "safetensors", "numpy", "mlflow")
_log = logging.getLogger("editkit.mlflow")


@dataclasses.dataclass(frozen=True)
class LoggedCell:
    """A cell in MLflow: its label, the id of its MLflow run, and the digest of its content."""

    label: str
    run_id: str
    digest: str


@dataclasses.dataclass
class _Logged:
    """Cells of one run that are up to date in MLflow: the MLflow run of each, by fingerprint.

    ``last`` is when the run started or logged last, by ``time.monotonic``.
    """

    run: Run | None = None
    cells: dict[str, LoggedCell] = dataclasses.field(default_factory=dict)
    last: float = -math.inf

    def of(self, run: Run) -> dict[str, LoggedCell]:
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
    known = _logged.of(run)
    logged = [known[cell.fingerprint] for cell in run.cells if cell.fingerprint in known]
    _logged.run = None  # rows may change after the run
    _enclose(run, tracker, logged)
    return tracker.document([cell.run_id for cell in logged])


def _log_new(run: Run) -> Tracker:
    """Log finished cells that are not logged yet, or whose label has changed since."""
    logged, labels = _logged.of(run), _labels(run)
    new = [
        cell
        for cell in _complete(run, run.cells)
        if cell.fingerprint not in logged
        or logged[cell.fingerprint].label != labels[cell.fingerprint]
    ]
    tracker, cells = _write(run, new)
    logged.update(cells)
    return tracker


def _enclose(run: Run, tracker: Tracker, logged: Sequence[LoggedCell]) -> None:
    """Add the figures and the report of the output folder to the MLflow runs of its cells."""
    figures = enclosures.figures_of(run.out)
    digest = enclosures.digest_of((cell.digest for cell in logged), list(figures.values()))
    tracker.enclose(
        [cell.run_id for cell in logged],
        digest,
        lambda: {
            **enclosures.read_figures(figures),
            enclosures.REPORT: enclosures.report_page(run),
        },
    )


def _complete(run: Run, cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if run.dataset["n_records"] and is_complete(run, cell)]


def log_cells(
    run: Run, cells: Sequence[Cell], *, rewrite: bool = False
) -> tuple[Tracker, list[str]]:
    """Write the complete cells among ``cells`` to MLflow, with figures and report.

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
    tracker, logged = _write(run, _complete(run, cells), rewrite=rewrite)
    _enclose(run, tracker, list(logged.values()))
    return tracker, [cell.run_id for cell in logged.values()]


def _write(
    run: Run, cells: Sequence[Cell], *, rewrite: bool = False
) -> tuple[Tracker, dict[str, LoggedCell]]:
    """The tracker of the experiment, and complete cells by fingerprint once they are in MLflow."""
    labels = _labels(run)
    names = [_name(run, cell, labels) for cell in run.cells]
    curves = any(cell.regime.kind == "sequential" for cell in run.cells)
    tracker = Tracker(
        tracking_uri(run.out),
        experiment=experiment_name(run.benchmark),
        note=lambda experiment_id: experiment_note(run, experiment_id),
        tags={view.TAG: view.benchmark_view(run.scores, names, curves=curves)},
    )
    logged = {}
    for cell in cells:
        content = content_of(run, cell)
        run_id = tracker.log(content, rewrite=rewrite, environment=environment())
        label = labels[cell.fingerprint]
        logged[cell.fingerprint] = LoggedCell(label, run_id, content.digest)
    return tracker, logged


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
    tables = tables_of(run, rows, document)
    table, labels = _table_line(run, document), _labels(run)
    editors = {labels[other.fingerprint]: other.editor for other in _similar_cells(run)}
    tags = {
        "editor": cell.editor,
        "preset": values_from(cell),
        "model": run.model["name"],
        "dataset": run.dataset["name"],
        "benchmark": run.benchmark,
        "seed": cell.seed,
        "edits": "" if cell.regime.is_independent else cell.regime.label,
        "editkit.model_fingerprint": run.model.get("fingerprint"),
        "editkit.editor_version": f"{cell.distribution} {cell.version}",
        "mlflow.source.name": f"editkit run-benchmark {run.benchmark}",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": run_note(run, cell, rows, document, table),
        "mlflow.runColor": run_colors(editors)[labels[cell.fingerprint]],
        "editkit.edits": document["edits"]["summary"],
        "mlflow.loggedArtifacts": json.dumps([{"path": name, "type": "table"} for name in tables]),
        **table,
    }
    return RunContent(
        fingerprint=cell.fingerprint,
        name=_name(run, cell, labels),
        started=milliseconds(started),
        finished=milliseconds(finished),
        params=flat_params(
            {
                **cell.params,
                **_edits(run, cell),
                "benchmark": run.benchmark,
                "values_from": values_from(cell),
            }
        ),
        metrics=_metrics(document),
        step=cell.regime.facts if cell.regime.kind == "joint" else 0,
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


def _name(run: Run, cell: Cell, labels: Mapping[str, str]) -> str:
    """The cell's label, and the model and dataset where they are not the benchmark's own."""
    label = labels[cell.fingerprint]
    model, dataset = str(run.model["name"]), str(run.dataset["name"])
    parts = [label, model.rstrip("/").rpartition("/")[2], dataset]
    if cell.preset not in _DEFAULTS["preset"] and str(cell.preset) not in label:
        parts.append(str(values_from(cell)))
    if cell.seed not in _DEFAULTS["seed"] and f"seed {cell.seed}" not in label:
        parts.append(f"seed {cell.seed}")
    # Short enough for legends: the experiment has the benchmark's name.
    return " · ".join(part for part in dict.fromkeys(parts) if part != run.benchmark)


def _labels(run: Run) -> dict[str, str]:
    """The labels of cells by fingerprint, among all cells of similar runs in the output folder."""
    cells = _similar_cells(run)
    labels = labels_of(dataclasses.replace(run, cells=tuple(cells)))
    return {cell.fingerprint: label for cell, label in zip(cells, labels, strict=True)}


def _similar_cells(run: Run) -> list[Cell]:
    """The cells of runs of the same benchmark on the same model and records, and of this one."""
    runs: list[Run] = [*runs_in(run.out), run]
    cells = {
        own.fingerprint: own
        for other in runs
        if (other.benchmark, run_key(other)) == (run.benchmark, run_key(run))
        for own in other.cells
    }
    return list(cells.values())


def _table_line(run: Run, document: Mapping[str, Any]) -> dict[str, str]:
    """The cell's line in the table of scores, by column: ``{"S": "94.2 ±1.7", ...}``."""
    estimates = {**document["metrics"], **document["models"]}
    numbers = {
        mlflow_name(score.label): score_entry(score, Estimate(**estimates[score.key])).plain
        for score in (SUMMARY, *run.scores, *run.model_scores)
        if score.label and score.key in estimates
    }
    return {**numbers, **{head: column(document) for head, column in CELL_COLUMNS.items()}}


def _edits(run: Run, cell: Cell) -> dict[str, str | int]:
    """How facts reach models: ``edits`` as in tables, the kind and its numbers, all edits."""
    regime = cell.regime
    params: dict[str, str | int] = {
        "edits": regime.label,
        "regime": regime.kind,
        "edits.facts": regime.facts,
        "n_edits": run.dataset.get("n_edits", run.dataset["n_records"]),
        "batch": run.batch,
    }
    if regime.kind == "sequential":
        params["edits.step"] = regime.step
    return params


def _metrics(document: Mapping[str, Any]) -> dict[str, float]:
    """Metrics with a single value; the scores of a sequence are curves."""
    metrics: dict[str, float | None] = {}
    if not document["checkpoints"]:
        metrics = {**_means(document["metrics"]), **_means(document["models"])}
    for group in ("time", "memory", "records"):
        metrics.update({f"{group}/{key}": value for key, value in document[group].items()})
    metrics.update({f"edits/{kind}": document["edits"][kind] for kind in KINDS})
    return finite_metrics(metrics)


def _means(estimates: Mapping[str, Any]) -> dict[str, float | None]:
    """The means, the summary score first. Their intervals are in a table: MLflow would draw a chart
    for each bound."""
    first = [SUMMARY.key] if SUMMARY.key in estimates else []
    keys = [*first, *(key for key in estimates if key != SUMMARY.key)]
    return {key: estimates[key]["mean"] for key in keys}


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
        values = {**_means(checkpoint["metrics"]), **newest, **_means(checkpoint["models"])}
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


def _seconds(row: Row) -> float:
    return sum(row.times.get(key, 0.0) for key in ("edit_s", "score_s"))


def _plain(value: Any) -> Any:
    """``value`` with texts in place of everything that JSON and YAML cannot hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.loads(json.dumps(value, default=str))
