"""Running a plan: unit by unit, each stored as a whole, nothing computed twice.

A record that fails gets a failed row with the reason, and the run continues. Errors that concern
more than a record (a model that does not load, an editor that changes it, a full disk) stop the
run; all rows so far are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.benchmark.aggregate import document
from editkit.benchmark.cell_runner import (
    BatchRunner,
    CellRunner,
    Shared,
    WeightGuard,
    reason_of,
)
from editkit.benchmark.completeness import is_complete
from editkit.benchmark.environment import environment_of, record_environment
from editkit.benchmark.group_runner import GroupRunner
from editkit.benchmark.inputs import load_model_of
from editkit.benchmark.observers import Observers
from editkit.benchmark.output_lock import exclusive
from editkit.benchmark.plan import Batch, Plan, PlannedCell
from editkit.benchmark.planned_metrics import PlannedMetric
from editkit.benchmark.sequence_files import SequenceFiles
from editkit.benchmark.store import Store, rows_of
from editkit.errors import EditkitError, ModelError, PluginError, TrackingError
from editkit.interfaces import Editor
from editkit.progress import counting, show_progress
from editkit.registry.plugins import Registry
from editkit.results import STORE_FILE, Cell, Row, Run

if TYPE_CHECKING:
    from editkit.models import LanguageModel

__all__ = ["Finished", "run_plan"]


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run whose rows are all stored.

    Attributes:
        run: The run.
        added: Entries of observers for the document, such as ``{"mlflow": {...}}``.
        tracking_errors: Errors of tracking services.
    """

    run: Run
    added: Mapping[str, Any]
    tracking_errors: tuple[TrackingError, ...]

    def document(self, *, differences: bool = True) -> dict[str, Any]:
        """The ``--json`` document.

        Args:
            differences: Whether it has the paired differences, which take seconds.
        """
        return document(self.run, self.added, differences=differences)

    def failures(self) -> list[tuple[Cell, list[Row]]]:
        """The failed rows of each cell that has some."""
        failures = []
        for cell in self.run.cells:
            failed = [row for row in rows_of(self.run, cell) if row.status == "failed"]
            if failed:
                failures.append((cell, failed))
        return failures


def run_plan(
    plan: Plan,
    out: Path,
    registry: Registry,
    *,
    fresh: bool = False,
    retry_failed: bool = False,
    tracking: bool = True,
    quiet: bool = False,
) -> Finished:
    """Compute what the folder's store lacks. The model is loaded only if something is missing.

    Args:
        plan: The plan.
        out: The output folder.
        registry: Provides editors, metrics and observers.
        fresh: Discard earlier rows of this plan first.
        retry_failed: Compute records again that failed in an earlier run.
        tracking: Whether to send results to tracking services.
        quiet: Show no progress.

    Raises:
        StoreError: The folder is in use, or its store cannot be used.
        ModelError: The model cannot be loaded, or has no chat template although records need one.
        PluginError: An editor or metric cannot be prepared, or an editor changed the model.
    """
    fingerprints = [planned.cell.fingerprint for planned in plan.cells]
    with exclusive(out, plan.shard), Store(out / STORE_FILE) as store, show_progress(quiet=quiet):
        units = {p.cell.fingerprint: plan.units(p.cell) for p in plan.cells}
        records = {r.case_id: r for own in units.values() for unit in own for r in unit.records}
        if fresh:
            for planned in plan.cells:
                _discard(planned.cell, units[planned.cell.fingerprint], out, store)
        store.drop_damaged_descriptions(fingerprints)
        for fingerprint in fingerprints:
            store.drop_damaged(fingerprint)
        if retry_failed:
            for planned in plan.cells:
                _discard_failed(planned.cell, units[planned.cell.fingerprint], out, store)
        remaining = [plan.remaining(planned.cell, store) for planned in plan.cells]
        if retry_failed:
            remaining = [
                _missing(planned.cell, left, store)
                for planned, left in zip(plan.cells, remaining, strict=True)
            ]
        for planned, left in zip(plan.cells, remaining, strict=True):
            _tidy(planned.cell, units[planned.cell.fingerprint], left, out)
        n_left = sum(
            _work(planned.cell, unit)
            for planned, own in zip(plan.cells, remaining, strict=True)
            for unit in own
        )
        model = _load(plan) if n_left else None
        description = model.describe() if model else _known_model(plan, store)
        if model and any(each.chat for r in records.values() for each in r.requests):
            _ = model.chat_template  # raises here, once, instead of in every record
        if model:
            record_environment(environment_of(description), store, fingerprints)
        run = plan.run(out, description, tracking=tracking)
        for cell in run.cells:
            store.put_cell(cell.fingerprint, run.describe(cell))
        requests = {case_id: record.requests for case_id, record in records.items()}
        store.put_requests(str(run.dataset["digest"]), requests)
        observers = Observers(registry)
        observers.run_started(run)
        total = sum(_work(p.cell, unit) for p in plan.cells for unit in units[p.cell.fingerprint])
        done = total - n_left
        with counting("preparing metrics", total, unit="edit", done=done) as progress:
            runners: dict[str, CellRunner] = {}
            if model:
                shared = Shared(run, store, observers, progress, model, WeightGuard(model))
                shared.batch = plan.batch
                shared.metrics = _prepared(
                    [metric for metric in plan.metrics if not metric.of_models],
                    registry,
                    lambda metric: metric.prepare(plan.texts),
                )
                for _, metric in shared.metrics:
                    metric.check(model)
                    metric.check_records(plan.records)
                regimes = [planned.cell.regime for planned in plan.cells]
                of_models = _prepared(
                    plan.model_metrics
                    if any(not r.is_independent for r in regimes)
                    else [metric for metric in plan.metrics if metric.of_models],
                    registry,
                    lambda metric: metric.prepare(model),
                )
                own = {metric.offer.name for metric in plan.metrics if metric.of_models}
                shared.own_model_metrics = [each for each in of_models if each[0] in own]
                shared.model_metrics = of_models
                # Build all editors first: broken ones show up before any work is done.
                for planned, left in zip(plan.cells, remaining, strict=True):
                    if left:
                        editor = registry.build("editor", planned.cell.editor, planned.config)
                        editor.check(model)
                        runner = _runner(shared, plan, planned, editor, left)
                        runners[planned.cell.fingerprint] = runner
            for cell in run.cells:
                if cell.fingerprint in runners:
                    runners.pop(cell.fingerprint).run()
                if is_complete(run, cell):
                    observers.cell_finished(run, cell)
        added = observers.run_finished(run)
        return Finished(run, added, tuple(observers.tracking_errors))


def _load(plan: Plan) -> LanguageModel:
    model = load_model_of(plan.model)
    if model.fingerprint != plan.model_fingerprint:
        raise ModelError(
            f"model {plan.model.name!r} has fingerprint {model.fingerprint}, expected "
            f"{plan.model_fingerprint}: its files changed while it was loaded.",
            hint="Run the command again.",
        )
    return model


def _known_model(plan: Plan, store: Store) -> dict[str, Any]:
    """The model's description from an earlier run that loaded it."""
    described = [store.known_cell(planned.cell.fingerprint) for planned in plan.cells]
    return next(
        (dict(d["model"]) for d in described if d and "model" in d), plan.model_description()
    )


def _work(cell: Cell, unit: Batch) -> int:
    """Steps of the progress bar: facts to write, and facts to score at each later moment."""
    n = len(unit.records)
    if cell.regime.is_independent:
        return n
    return n + sum(mark or n for mark in cell.regime.checkpoints_of(n))


def _discard(cell: Cell, units: Sequence[Batch], out: Path, store: Store) -> None:
    """Remove everything that is stored of some units of a cell."""
    cases = [record.case_id for unit in units for record in unit.records]
    groups = [] if cell.regime.is_independent else [unit.index for unit in units]
    store.discard(cell.fingerprint, cases, groups)
    for group in groups:
        SequenceFiles(out, cell.fingerprint, group).remove()


def _discard_failed(cell: Cell, units: Sequence[Batch], out: Path, store: Store) -> None:
    """Remove failed rows; of facts that share a model, everything of their group."""
    rows = [*store.rows(cell.fingerprint), *store.history(cell.fingerprint)]
    failed = {row.case_id for row in rows if row.status == "failed"}
    if cell.regime.is_independent:
        store.discard(cell.fingerprint, sorted(failed))
    else:
        groups = [u for u in units if any(record.case_id in failed for record in u.records)]
        _discard(cell, groups, out, store)


def _missing(cell: Cell, units: Sequence[Batch], store: Store) -> list[Batch]:
    """The units without the records that are stored; a group is computed as a whole."""
    if not cell.regime.is_independent:
        return list(units)
    stored = {row.case_id for row in store.rows(cell.fingerprint)}
    return [
        dataclasses.replace(unit, records=tuple(r for r in unit.records if r.case_id not in stored))
        for unit in units
    ]


def _tidy(cell: Cell, units: Sequence[Batch], left: Sequence[Batch], out: Path) -> None:
    """Finish the files of groups that have all their rows."""
    if not cell.regime.is_independent:
        unfinished = {unit.index for unit in left}
        for unit in units:
            if unit.index not in unfinished:
                requests = [record.requests for record in unit.records]
                SequenceFiles(out, cell.fingerprint, unit.index).tidy(requests)


def _runner(
    shared: Shared,
    plan: Plan,
    planned: PlannedCell,
    editor: Editor[Any],
    units: Sequence[Batch],
) -> CellRunner:
    """The runner of a cell's regime."""
    cell = planned.cell
    if cell.regime.is_independent:
        return BatchRunner(shared, cell, editor, units)
    rows = [*shared.store.rows(cell.fingerprint), *shared.store.history(cell.fingerprint)]
    cases = {(row.checkpoint, row.case_id) for row in rows}
    models = {(row.checkpoint, row.group) for row in shared.store.models(cell.fingerprint)}
    return GroupRunner(
        shared,
        cell,
        editor,
        units,
        out=shared.run.out,
        together=planned.writes_together,
        stored={
            unit.index: frozenset(
                mark
                for mark in cell.regime.checkpoints_of(len(unit.records))
                if plan.has_checkpoint(cell, unit, mark, cases, models)
            )
            for unit in units
        },
    )


def _prepared(
    planned: Sequence[PlannedMetric], registry: Registry, prepare: Callable[[Any], None]
) -> list[tuple[str, Any]]:
    """Metrics by name, of records or of models. All cells are scored by the same objects."""
    prepared = []
    for each in planned:
        name, kind = each.offer.name, each.offer.kind
        metric = registry.build(kind, name, each.resolved.config)
        try:
            prepare(metric)
        except (EditkitError, MemoryError):
            raise
        except Exception as error:
            flag = f"--{kind.replace('_', '-')}s"
            raise PluginError(
                f"metric {name!r} could not be prepared: {reason_of(error)}.",
                hint=f"--debug shows the traceback; {flag} chooses other metrics.",
            ) from error
        prepared.append((name, metric))
    return prepared
