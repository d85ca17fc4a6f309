"""Running a plan: unit by unit, each stored as a whole, nothing computed twice.

This module finds out what an output folder lacks. :mod:`editkit.benchmark.driver` hands that to
workers, which have the model, and stores their answers.

A record that fails gets a failed row with the reason, and the run continues. Errors that concern
more than a record (a model that does not load, an editor that changes it, a full disk) stop the
run; all rows so far are kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from editkit.benchmark.aggregate import document
from editkit.benchmark.bench import BenchRecipe
from editkit.benchmark.completeness import is_complete
from editkit.benchmark.driver import Driver, discard_units, steps_of
from editkit.benchmark.environment import record_environment
from editkit.benchmark.observers import Observers
from editkit.benchmark.output_lock import exclusive
from editkit.benchmark.plan import Batch, Plan
from editkit.benchmark.sequence_files import SequenceFiles
from editkit.benchmark.store import Store
from editkit.errors import TrackingError
from editkit.progress import counting, show_progress
from editkit.registry.plugins import Registry
from editkit.results import STORE_FILE, Cell, Row, Run
from editkit.storage.machine import free_memory
from editkit.workers.pool import InProcess, Pool

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
        with Store(self.run.store, read_only=True) as store:
            failed = [(cell, store.failed(cell.fingerprint)) for cell in self.run.cells]
        return [(cell, rows) for cell, rows in failed if rows]


def run_plan(
    plan: Plan,
    out: Path,
    registry: Registry,
    *,
    fresh: bool = False,
    retry_failed: bool = False,
    tracking: bool = True,
    quiet: bool = False,
    pool: Pool | None = None,
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
        pool: The workers; this process by default.

    Raises:
        StoreError: The folder is in use, or its store cannot be used.
        ModelError: The model cannot be loaded, or has no chat template although records need one.
        PluginError: An editor or metric cannot be prepared, or an editor changed the model.
        ClusterError: No worker is left, or workers die whenever they prepare an editor.
    """
    pool = pool or InProcess()
    fingerprints = [planned.cell.fingerprint for planned in plan.cells]
    with exclusive(out, plan.shard), Store(out / STORE_FILE) as store, show_progress(quiet=quiet):
        units = {p.cell.fingerprint: plan.units(p.cell) for p in plan.cells}
        if fresh:
            for planned in plan.cells:
                discard_units(planned.cell, units[planned.cell.fingerprint], out, store)
        store.drop_damaged_descriptions(fingerprints)
        for fingerprint in fingerprints:
            store.drop_damaged(fingerprint)
        left = _left(plan, units, out, store, retry_failed=retry_failed)
        total, n_left = (
            sum(steps_of(p.cell, unit) for p in plan.cells for unit in own[p.cell.fingerprint])
            for own in (units, left)
        )
        with contextlib.ExitStack() as stack:
            progress = stack.enter_context(
                counting(
                    "preparing metrics" if pool.is_local else f"starting workers on {pool.place}",
                    total,
                    unit="edit",
                    done=total - n_left,
                )
            )
            crew = None
            description = _known_model(plan, store)
            if n_left:
                _check_records(plan, registry)
                cells = [fingerprint for fingerprint, own in left.items() if own]
                recipe = BenchRecipe.of(plan, cells, registry, is_local=pool.is_local)
                crew = stack.enter_context(
                    pool.opened(
                        recipe,
                        distributions=_distributions(plan, cells),
                        jobs=sum(map(len, left.values())),
                    )
                )
                description = dict(crew.about["model"])
                record_environment(crew.about["environment"], store, fingerprints)
            run = plan.run(out, description, tracking=tracking)
            for cell in run.cells:
                store.put_cell(cell.fingerprint, run.describe(cell))
            records = [record for own in units.values() for unit in own for record in unit.records]
            requests = {record.case_id: record.requests for record in records}
            store.put_requests(str(run.dataset["digest"]), requests)
            observers = Observers(registry)
            observers.run_started(run)
            for cell in run.cells:
                if not left[cell.fingerprint] and is_complete(run, cell, checked=True):
                    observers.cell_finished(run, cell)
            if crew is not None:
                Driver(
                    plan,
                    run,
                    left,
                    store=store,
                    observers=observers,
                    progress=progress,
                    crew=crew,
                ).run()
        crew = None  # frees the model: observers may load large libraries
        free_memory()
        added = observers.run_finished(run)
        return Finished(run, added, tuple(observers.tracking_errors))


def _left(
    plan: Plan,
    units: Mapping[str, Sequence[Batch]],
    out: Path,
    store: Store,
    *,
    retry_failed: bool,
) -> dict[str, list[Batch]]:
    """The units that lack rows, by fingerprint of their cell; files of the others are tidied."""
    left = {}
    for planned in plan.cells:
        cell = planned.cell
        own = units[cell.fingerprint]
        if retry_failed:
            _discard_failed(cell, own, out, store)
        missing = plan.remaining(cell, store)
        if retry_failed:
            missing = _missing(cell, missing, store)
        _tidy(cell, own, missing, out)
        left[cell.fingerprint] = missing
    return left


def _distributions(plan: Plan, cells: Collection[str]) -> list[str]:
    """Of the plugins that compute the rows of some cells."""
    metrics = (*plan.metrics, *plan.model_metrics)
    return sorted(
        {metric.offer.source.distribution for metric in metrics}
        | {p.cell.distribution for p in plan.cells if p.cell.fingerprint in cells}
    )


def _check_records(plan: Plan, registry: Registry) -> None:
    """Let metrics warn of values that fit none of the records."""
    for planned in plan.metrics:
        if not planned.of_models:
            metric = registry.build("metric", planned.offer.name, planned.resolved.config)
            metric.check_records(plan.records)


def _known_model(plan: Plan, store: Store) -> dict[str, Any]:
    """The model's description from an earlier run that loaded it."""
    described = [store.known_cell(planned.cell.fingerprint) for planned in plan.cells]
    return next(
        (dict(d["model"]) for d in described if d and "model" in d), plan.model_description()
    )


def _discard_failed(cell: Cell, units: Sequence[Batch], out: Path, store: Store) -> None:
    """Remove failed rows; of facts that share a model, everything of their group."""
    rows = [*store.rows(cell.fingerprint), *store.history(cell.fingerprint)]
    failed = {row.case_id for row in rows if row.status == "failed"}
    if cell.regime.is_independent:
        store.discard(cell.fingerprint, sorted(failed))
    else:
        groups = [u for u in units if any(record.case_id in failed for record in u.records)]
        discard_units(cell, groups, out, store)


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
