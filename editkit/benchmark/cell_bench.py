"""What a worker does for one cell: an editor over records, each in its own copy of the model.

Records with one edit are edited in batches; the edits of a record with several are one joint edit.
A record that fails gets a failed row with the reason. So does one that does not fit into memory on
its own; a batch that does not fit is repeated record by record.

:mod:`editkit.benchmark.group_bench` has the regimes in which facts share a model.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit.benchmark.jobs import (
    Answer,
    Care,
    Job,
    Part,
    Rows,
    Trying,
    WeightsChanged,
)
from editkit.benchmark.metric_answers import BadScores, collect
from editkit.benchmark.repeated_edits import edits_to_write, notes_of_record
from editkit.benchmark.shared_queries import ask_together
from editkit.data_types import EditRequest, Record
from editkit.editing.outcomes import unwatched
from editkit.editing.unedited_answers import UneditedAnswers
from editkit.errors import EditkitError, JudgeError, PluginError, first_line
from editkit.interfaces import Editor, Metric, MetricRow, ModelMetric
from editkit.redaction import redacted
from editkit.registry.random_state import seeded
from editkit.results import Cell, Row
from editkit.storage.digests import plain
from editkit.storage.machine import (
    free_memory,
    is_out_of_memory,
    peak_memory_of_this_process,
)

if TYPE_CHECKING:
    from editkit.editing.deltas import WeightDelta
    from editkit.models import LanguageModel

__all__ = [
    "BatchBench",
    "CellBench",
    "Instruments",
    "WeightGuard",
    "editor_of",
    "failed_row",
    "finished",
    "is_broken_device",
    "reason_of",
    "row_of",
    "stops_the_run",
]

_log = logging.getLogger(__name__)
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Instruments:
    """What the cells of a run have in common on one worker: the model, and what measures it.

    ``own_model_metrics`` score the model of each record; ``model_metrics`` those that facts share.
    At most ``batch`` records are scored together.
    """

    model: LanguageModel
    guard: WeightGuard
    metrics: Sequence[tuple[str, Metric[Any]]]
    own_model_metrics: Sequence[tuple[str, ModelMetric[Any]]]
    model_metrics: Sequence[tuple[str, ModelMetric[Any]]]
    batch: int
    unedited_answers: UneditedAnswers = dataclasses.field(default_factory=UneditedAnswers)


class CellBench(ABC):
    """One editor, prepared, with what measures its edits."""

    def __init__(self, instruments: Instruments, cell: Cell, editor: Editor[Any]) -> None:
        from editkit.editing.delta_effects import Effects

        self.instruments, self.cell, self.editor = instruments, cell, editor
        self.model = instruments.model
        self.effects = Effects(instruments.model)
        self.prepare_s = 0.0

    @abstractmethod
    def do(self, job: Job) -> Iterator[Answer]:
        """Compute the rows of a unit."""

    def prepare(self) -> None:
        """Prepare the editor."""
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
        self.prepare_s = time.perf_counter() - started

    def score(
        self, deltas: list[WeightDelta], records: list[Record]
    ) -> list[list[tuple[str, MetricRow]]]:
        """Name and answer of every metric, for each record."""
        from editkit.editing.edited_models import EditedModels

        if not records:
            return []
        models = EditedModels(
            self.model,
            deltas,
            seed=self.cell.seed,
            known=self.instruments.unedited_answers,
            weights_known=True,
        )
        ask_together(models, records, [metric for _, metric in self.instruments.metrics])
        rows: list[list[tuple[str, MetricRow]]] = [[] for _ in records]

        def add(name: str, answers: Sequence[MetricRow]) -> None:
            if len(answers) != len(records):
                raise PluginError(
                    f"metric {name!r} returned {len(answers)} answers for {len(records)} records.",
                    hint="Report this to the metric's author; --metrics chooses other metrics.",
                )
            for row, answer in zip(rows, answers, strict=True):
                row.append((name, answer))

        for name, metric in self.instruments.metrics:
            add(name, metric.score(models, records))
        if self.cell.regime.is_independent:
            for name, of_models in self.instruments.own_model_metrics:
                add(name, [_numbers(answer) for answer in of_models.score(models)])
        return rows

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
        return editor_of(self.cell)


class BatchBench(CellBench):
    """Each record in its own copy of the model, in batches."""

    def do(self, job: Job) -> Iterator[Answer]:
        """Edit and score a batch; if that fails, record by record."""
        if job.care is not None:
            yield from self._with_care(job, job.care)
            return
        index, records = job.unit.index, job.unit.records
        rows: list[Row] = []
        try:
            rows = self._edit_and_score(index, records)
        except Exception as error:
            if stops_the_run(error):
                raise
            _log.debug("batch %d of %s failed", index, self.cell.editor, exc_info=error)
            if is_out_of_memory(error) and len(records) > 1:
                _log.warning(
                    "%s: %d records together do not fit into memory (%s). They are edited and "
                    "scored one by one.",
                    *(self.cell.editor, len(records), reason_of(error)),
                )
        if not rows:  # after the handler, whose traceback holds the tensors of the batch
            free_memory()
            rows = [self._alone(index, record) for record in records]
        yield self._checked(rows)

    def _with_care(self, job: Job, care: Care) -> Iterator[Answer]:
        """Record by record, each announced before it is tried."""
        for record in job.unit.records:
            part = Part("record", record.case_id)
            if part in care.given_up:
                row = failed_row(record, care.given_up[part])
            else:
                yield Trying(part)
                row = self._alone(job.unit.index, record)
            yield self._checked([row])

    def _checked(self, rows: Sequence[Row]) -> Rows | WeightsChanged:
        """The finished rows, unless the editor changed the model."""
        rows = finished(rows, self.prepare_s)
        return Rows(rows) if self.instruments.guard.is_unchanged() else WeightsChanged()

    def _alone(self, index: int, record: Record) -> Row:
        """A record of a batch that failed, on its own: only the record at fault fails again."""
        try:
            return self._edit_and_score(index, (record,))[0]
        except Exception as error:
            if stops_the_run(error):
                raise
            _log.debug("case %d of %s failed", record.case_id, self.cell.editor, exc_info=error)
            reason = reason_of(error)
        free_memory()
        return failed_row(record, reason)

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


def editor_of(cell: Cell) -> str:
    """The editor of a cell and its distribution, for messages."""
    return f"editor {cell.editor!r} of {cell.distribution} {cell.version}"


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
    """Whether an error is about a plugin, its service or the device, not the record."""
    return isinstance(error, PluginError | JudgeError) or is_broken_device(error)


def is_broken_device(error: Exception) -> bool:
    """Whether this process cannot use its GPU any more: everything fails after such an error."""
    return type(error).__name__ == "AcceleratorError" and not is_out_of_memory(error)


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
