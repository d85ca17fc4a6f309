"""Carrying out a plan: batch by batch, each stored whole, nothing done twice.

A record that goes wrong gets a failed row with the reason; the run goes on. What cannot go on (a
model that does not load, an editor that changes it, a full disk) is raised, with all rows kept.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit.benchmark.isolation import WeightGuard, seeded
from editkit.benchmark.observers import Observers
from editkit.benchmark.plan import Batch, Plan, PlannedCell
from editkit.benchmark.progress import Progress
from editkit.benchmark.scoring import BadScores, collect
from editkit.benchmark.store import Store, is_complete
from editkit.data_types import Record
from editkit.editing.outcomes import unwatched
from editkit.errors import EditkitError, PluginError, first_line
from editkit.interfaces import Editor, Metric
from editkit.redaction import redacted
from editkit.registry.plugins import Registry
from editkit.results import Row, Run
from editkit.storage.digests import plain
from editkit.storage.machine import peak_memory_of_this_process

if TYPE_CHECKING:
    from editkit.editing.deltas import WeightDelta
    from editkit.models import LanguageModel

_log = logging.getLogger(__name__)
_MIB = 2**20


@dataclasses.dataclass
class Runner:
    """One run being carried out.

    Args:
        plan: What to do.
        run: The run as observers see it.
        store: Where rows go.
        registry: Where editors and metrics come from.
        observers: Who is told.
        progress: Shows how far it is.
    """

    plan: Plan
    run: Run
    store: Store
    registry: Registry
    observers: Observers
    progress: Progress
    metrics: list[tuple[str, Metric[Any]]] = dataclasses.field(default_factory=list, init=False)

    def execute(self, model: LanguageModel | None) -> None:
        """Do what is left of every cell.

        Args:
            model: The model; None where nothing is left.

        Raises:
            PluginError: An editor changed the model, or could not be prepared.
        """
        left = {
            planned.cell.fingerprint: self.plan.remaining(planned.cell, self.store)
            for planned in self.plan.cells
        }
        workers: dict[str, _CellRunner] = {}
        if model is not None:
            self.metrics = self._prepared_metrics()
            guard = WeightGuard(model)
            for planned in self.plan.cells:  # all are built first: what is broken shows at once
                if left[planned.cell.fingerprint]:
                    worker = _CellRunner(self, planned, model, guard)
                    worker.editor.check(model)
                    workers[planned.cell.fingerprint] = worker
        for planned in self.plan.cells:
            fingerprint = planned.cell.fingerprint
            if fingerprint in workers:
                workers.pop(fingerprint).execute(left[fingerprint])
            if is_complete(self.run, planned.cell):
                self.observers.cell_finished(self.run, planned.cell)

    def _prepared_metrics(self) -> list[tuple[str, Metric[Any]]]:
        """The metrics by name, made once: all editors are measured by the very same ones."""
        prepared = []
        for planned in self.plan.metrics:
            name = planned.offer.name
            metric: Metric[Any] = self.registry.build("metric", name, planned.resolved.config)
            try:
                metric.prepare(self.plan.texts)
            except (EditkitError, MemoryError):
                raise
            except Exception as error:
                raise PluginError(
                    f"metric {name!r} could not be prepared: {_reason(error)}.",
                    hint="Run again with --debug to see where; --metrics leaves it out.",
                ) from error
            prepared.append((name, metric))
        return prepared


class _CellRunner:
    """One editor over its batches."""

    def __init__(
        self, runner: Runner, planned: PlannedCell, model: LanguageModel, guard: WeightGuard
    ) -> None:
        from editkit.editing.effects import Effects

        self.runner, self.cell = runner, planned.cell
        self.model, self.guard = model, guard
        self.editor: Editor[Any] = runner.registry.build("editor", self.cell.editor, planned.config)
        self.metrics = runner.metrics
        self.effects = Effects(model)

    def execute(self, batches: Sequence[Batch]) -> None:
        self.runner.progress.label(self.cell.editor)
        prepare_s = self._prepare()
        written: list[int] = []
        for batch in batches:
            rows = self._rows(batch, prepare_s)
            if not self.guard.is_unchanged():
                raise self._changed_the_model(written)
            self.runner.store.put_rows(self.cell.fingerprint, rows)
            written += [row.case_id for row in rows]
            for row in rows:
                self.runner.observers.record_finished(self.runner.run, self.cell, row)
            self.runner.progress.advance(len(rows))
        if not self.guard.is_unchanged():
            raise self._changed_the_model(written)

    def _prepare(self) -> float:
        started = time.perf_counter()
        try:
            with seeded(self.cell.seed, "prepare"):
                self.editor.prepare(self.model)
        except (EditkitError, MemoryError):
            raise
        except Exception as error:
            raise PluginError(
                f"{self._who()} could not be prepared: {_reason(error)}.",
                hint="Run again with --debug to see where; --editor leaves it out.",
            ) from error
        return time.perf_counter() - started

    def _rows(self, batch: Batch, prepare_s: float) -> list[Row]:
        """One row per record of the batch, in its order."""
        try:
            rows = self._attempt(batch.index, batch.records)
        except Exception as error:
            if _ends_the_run(error):
                raise
            _log.debug("batch %d of %s failed", batch.index, self.cell.editor, exc_info=error)
            rows = [self._alone(batch.index, record) for record in batch.records]
        peak = peak_memory_of_this_process() / _MIB
        return [
            dataclasses.replace(
                row,
                times={**row.times, "prepare_s": prepare_s},
                completed_at=time.time(),
                peak_rss_mb=peak,
            )
            for row in rows
        ]

    def _alone(self, index: int, record: Record) -> Row:
        """A record of a batch that failed as a whole: only the culprit fails again."""
        try:
            return self._attempt(index, (record,))[0]
        except Exception as error:
            if _ends_the_run(error):
                raise
            _log.debug("case %d of %s failed", record.case_id, self.cell.editor, exc_info=error)
            return _failed(record, _reason(error))

    def _attempt(self, index: int, records: Sequence[Record]) -> list[Row]:
        with seeded(self.cell.seed, index):
            started = time.perf_counter()
            deltas = self._edit(records)
            edit_s = (time.perf_counter() - started) / len(records)
            finite = [i for i, delta in enumerate(deltas) if delta.is_finite()]
            started = time.perf_counter()
            answers = self._score([deltas[i] for i in finite], [records[i] for i in finite])
            score_s = (time.perf_counter() - started) / len(records)
        times = {"edit_s": edit_s, "score_s": score_s}
        answer_of = dict(zip(finite, answers, strict=True))
        rows = []
        for i, record in enumerate(records):
            notes = plain(deltas[i].notes)
            if i in answer_of:
                notes = {**self.effects.of(deltas[i]), **notes}
            rows.append(_row(record, notes, answer_of.get(i), times))
        return rows

    def _edit(self, records: Sequence[Record]) -> list[WeightDelta]:
        with unwatched():  # what did not work is shown with the table
            deltas = self.editor.edit(self.model, [record.request for record in records])
        if len(deltas) != len(records):
            raise PluginError(
                f"{self._who()} returned {len(deltas)} deltas for {len(records)} requests."
            )
        return deltas

    def _score(
        self, deltas: list[WeightDelta], records: list[Record]
    ) -> list[list[tuple[str, Mapping[str, Any]]]]:
        """Per record, the name and answer of each metric."""
        from editkit.editing.edited import EditedModels

        if not records:
            return []
        models = EditedModels(self.model, deltas, seed=self.cell.seed)
        columns = []
        for name, metric in self.metrics:
            answers = metric.score(models, records)
            if len(answers) != len(records):
                raise PluginError(
                    f"metric {name!r} returned {len(answers)} answers for {len(records)} records."
                )
            columns.append([(name, answer) for answer in answers])
        return [list(answers) for answers in zip(*columns, strict=True)]

    def _changed_the_model(self, written: list[int]) -> PluginError:
        self.runner.store.discard(self.cell.fingerprint, written)
        return PluginError(
            f"{self._who()} changed the model's own weights, expected them bit-identical. "
            "Its rows of this run were discarded.",
            hint="Tell the editor's author; --editor leaves it out.",
        )

    def _who(self) -> str:
        return f"editor {self.cell.editor!r} of {self.cell.distribution} {self.cell.version}"


def _row(
    record: Record,
    notes: Mapping[str, Any],
    answers: list[tuple[str, Mapping[str, Any]]] | None,
    times: Mapping[str, float],
) -> Row:
    if answers is None:
        return _failed(record, "the edit is not finite", times, notes)
    try:
        found = collect(answers)
    except BadScores as error:
        return _failed(record, str(error), times, notes)
    return Row(record.case_id, "done", found.scores, found.details, times, notes, texts=found.texts)


def _failed(
    record: Record,
    reason: str,
    times: Mapping[str, float] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Row:
    return Row(record.case_id, "failed", times=times or {}, notes=notes or {}, error=reason)


def _ends_the_run(error: Exception) -> bool:
    """Whether an error says something of the plugin or the machine, and nothing of the record."""
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return out_of_memory or isinstance(error, PluginError)


def _reason(error: Exception) -> str:
    return redacted(first_line(error, named=True))


def discard_earlier(plan: Plan, store: Store) -> None:
    """Remove the rows that this plan would compute, so that it computes them."""
    cases = [record.case_id for batch in plan.batches for record in batch.records]
    for planned in plan.cells:
        store.discard(planned.cell.fingerprint, cases)
