"""Running one cell: an editor over the records of a run, each in its own copy of the model.

Records with one edit are edited in batches; the edits of a record with several are one joint edit.

:mod:`editkit.benchmark.group_runner` runs the regimes in which facts share a model.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit.benchmark.metric_answers import BadScores, collect
from editkit.benchmark.observers import Observers
from editkit.benchmark.plan import Batch
from editkit.benchmark.repeated_edits import edits_to_write, notes_of_record
from editkit.benchmark.store import Store
from editkit.data_types import EditRequest, Record
from editkit.editing.outcomes import unwatched
from editkit.errors import EditkitError, JudgeError, PluginError, first_line
from editkit.interfaces import Editor, Metric, MetricRow, ModelMetric
from editkit.progress import Counter
from editkit.redaction import redacted
from editkit.registry.random_state import seeded
from editkit.results import Cell, Row, Run
from editkit.storage.digests import plain
from editkit.storage.machine import peak_memory_of_this_process

if TYPE_CHECKING:
    from editkit.editing.deltas import WeightDelta
    from editkit.models import LanguageModel

__all__ = [
    "BatchRunner",
    "CellRunner",
    "Shared",
    "WeightGuard",
    "failed_row",
    "finished",
    "reason_of",
    "row_of",
    "stops_the_run",
]

_log = logging.getLogger(__name__)
_MIB = 2**20


@dataclasses.dataclass
class Shared:
    """What the cells of a run have in common.

    ``own_model_metrics`` score the model of each record; ``model_metrics`` those that facts share.
    """

    run: Run
    store: Store
    observers: Observers
    progress: Counter
    model: LanguageModel
    guard: WeightGuard
    metrics: Sequence[tuple[str, Metric[Any]]] = ()
    own_model_metrics: Sequence[tuple[str, ModelMetric[Any]]] = ()
    model_metrics: Sequence[tuple[str, ModelMetric[Any]]] = ()
    batch: int = 20


class CellRunner(ABC):
    """One editor over its remaining units of work."""

    def __init__(
        self, shared: Shared, cell: Cell, editor: Editor[Any], units: Sequence[Batch]
    ) -> None:
        from editkit.editing.delta_effects import Effects

        self.shared, self.cell, self.editor, self.units = shared, cell, editor, units
        self.model = shared.model
        self.effects = Effects(shared.model)

    @abstractmethod
    def run(self) -> None:
        """Compute all rows of these units and store them."""

    def prepare(self) -> float:
        """Prepare the editor; returns the seconds that it took."""
        started = time.perf_counter()
        try:
            with seeded(self.cell.seed, "prepare"):
                self.editor.prepare(self.model)
        except (EditkitError, MemoryError):
            raise
        except Exception as error:
            raise PluginError(
                f"{self.who()} could not be prepared: {reason_of(error)}.",
                hint="--debug shows the traceback; --editor chooses other editors.",
            ) from error
        return time.perf_counter() - started

    def score(
        self, deltas: list[WeightDelta], records: list[Record]
    ) -> list[list[tuple[str, MetricRow]]]:
        """Name and answer of every metric, for each record."""
        from editkit.editing.edited_models import EditedModels

        if not records:
            return []
        models = EditedModels(self.model, deltas, seed=self.cell.seed)
        rows: list[list[tuple[str, MetricRow]]] = [[] for _ in records]

        def add(name: str, answers: Sequence[MetricRow]) -> None:
            if len(answers) != len(records):
                raise PluginError(
                    f"metric {name!r} returned {len(answers)} answers for {len(records)} records.",
                    hint="Report this to the metric's author; --metrics chooses other metrics.",
                )
            for row, answer in zip(rows, answers, strict=True):
                row.append((name, answer))

        for name, metric in self.shared.metrics:
            add(name, metric.score(models, records))
        if self.cell.regime.is_independent:
            for name, of_models in self.shared.own_model_metrics:
                add(name, [_numbers(answer) for answer in of_models.score(models)])
        return rows

    def check_weights(self, written: list[int]) -> None:
        """Discard the cell's rows of this run and raise if the editor changed the model."""
        if self.shared.guard.is_unchanged():
            return
        self.shared.store.discard(self.cell.fingerprint, written)
        raise PluginError(
            f"{self.who()} changed the model's own weights, expected them bit-identical. "
            "Its rows of this run were discarded.",
            hint="Report this to the editor's author; --editor chooses other editors.",
        )

    def check_joint(self, delta: object, requests: Sequence[EditRequest]) -> None:
        """Raise unless an editor returned one delta with all requests."""
        from editkit.editing.deltas import WeightDelta

        if not isinstance(delta, WeightDelta) or delta.requests != tuple(requests):
            raise PluginError(
                f"{self.who()} returned {delta!r:.80} for {len(requests)} requests, expected one "
                "delta with all of them.",
                hint="Report this to the editor's author; --editor chooses other editors.",
            )

    def who(self) -> str:
        """The editor and its distribution, for messages."""
        return f"editor {self.cell.editor!r} of {self.cell.distribution} {self.cell.version}"


class BatchRunner(CellRunner):
    """Each record in its own copy of the model, in batches."""

    def run(self) -> None:
        """Edit and score batch by batch; a batch that fails is repeated record by record."""
        shared = self.shared
        shared.progress.relabel(self.cell.editor)
        prepare_s = self.prepare()
        written: list[int] = []
        for batch in self.units:
            try:
                rows = self._edit_and_score(batch.index, batch.records)
            except Exception as error:
                if stops_the_run(error):
                    raise
                _log.debug("batch %d of %s failed", batch.index, self.cell.editor, exc_info=error)
                rows = [self._alone(batch.index, record) for record in batch.records]
            rows = finished(rows, prepare_s)
            self.check_weights(written)
            shared.store.put_rows(self.cell.fingerprint, rows)
            written += [row.case_id for row in rows]
            for row in rows:
                shared.observers.record_finished(shared.run, self.cell, row)
            shared.progress(len(rows))
        self.check_weights(written)

    def _alone(self, index: int, record: Record) -> Row:
        """A record of a batch that failed, on its own: only the record at fault fails again."""
        try:
            return self._edit_and_score(index, (record,))[0]
        except Exception as error:
            if stops_the_run(error):
                raise
            _log.debug("case %d of %s failed", record.case_id, self.cell.editor, exc_info=error)
            return failed_row(record, reason_of(error))

    def _edit_and_score(self, index: int, records: Sequence[Record]) -> list[Row]:
        """One row per record, in order; ``index`` is the batch's, which seeds the edit."""
        with seeded(self.cell.seed, index):
            started = time.perf_counter()
            with unwatched():  # edits without effect are reported with the table
                deltas = self._deltas(records)
            edit_s = (time.perf_counter() - started) / len(records)
            finite = [i for i, delta in enumerate(deltas) if delta.is_finite()]
            started = time.perf_counter()
            answers = self.score([deltas[i] for i in finite], [records[i] for i in finite])
            score_s = (time.perf_counter() - started) / len(records)
        times = {"edit_s": edit_s, "score_s": score_s}
        answer_of = dict(zip(finite, answers, strict=True))
        rows = []
        for i, record in enumerate(records):
            notes = plain(self._notes(record, deltas[i]))
            if i in answer_of:
                notes = {**self.effects.of(deltas[i]), **notes}
            rows.append(row_of(record, notes, answer_of.get(i), times))
        return rows

    def _deltas(self, records: Sequence[Record]) -> list[WeightDelta]:
        """One delta per record; a record with several edits is edited jointly."""
        single = [record.request for record in records if not record.also]
        deltas = self.editor.edit(self.model, single) if single else []
        if len(deltas) != len(single):
            raise PluginError(
                f"{self.who()} returned {len(deltas)} deltas for {len(single)} requests.",
                hint="Report this to the editor's author; --editor chooses other editors.",
            )
        rest = iter(deltas)
        return [self._joint(record) if record.also else next(rest) for record in records]

    def _joint(self, record: Record) -> WeightDelta:
        requests = edits_to_write([record.requests])
        delta = self.editor.edit_jointly(self.model, requests)
        self.check_joint(delta, requests)
        return delta

    def _notes(self, record: Record, delta: WeightDelta) -> Mapping[str, Any]:
        from editkit.editing.deltas import notes_of_facts

        if not record.also:
            return delta.notes
        own = dict(zip(delta.requests, notes_of_facts(delta), strict=True))
        return notes_of_record(record.requests, own)


def _numbers(answer: MetricRow) -> MetricRow:
    """What a metric of models answers without its texts: a record's texts are about the record."""
    return {
        key: value
        for key, value in answer.items()
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value)
    }


def finished(rows: Sequence[Row], prepare_s: float) -> list[Row]:
    """Rows with the time and memory that are known once their batch is done."""
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


def row_of(
    record: Record,
    notes: Mapping[str, Any],
    answers: list[tuple[str, MetricRow]] | None,
    times: Mapping[str, float],
) -> Row:
    """The row of a record from the answers of all metrics; failed if one of them is unusable."""
    if answers is None:
        return failed_row(record, "the edit is not finite", times, notes)
    try:
        collected = collect(answers)
    except BadScores as error:
        return failed_row(record, str(error), times, notes)
    return Row(
        record.case_id,
        "done",
        collected.scores,
        collected.details,
        times,
        notes,
        texts=collected.texts,
    )


def failed_row(
    record: Record,
    reason: str,
    times: Mapping[str, float] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Row:
    """A row without scores, and why."""
    return Row(record.case_id, "failed", times=times or {}, notes=notes or {}, error=reason)


def stops_the_run(error: Exception) -> bool:
    """Whether an error is about a plugin, its service or the machine, not the record."""
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return out_of_memory or isinstance(error, PluginError | JudgeError)


def reason_of(error: Exception) -> str:
    """An error in one line, with its type and without secrets."""
    return redacted(first_line(error, named=True))


class WeightGuard:
    """Detects any change of the model's weights.

    Each check reads all weights once, about 0.12 s per GB on one core.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._checksums = model.weights.checksums()

    def is_unchanged(self) -> bool:
        """Whether values, types, shapes and names of all weights are the original ones."""
        return self._model.weights.checksums() == self._checksums
