"""Running a plan: batch by batch, each stored as a whole, nothing computed twice.

A record that fails gets a failed row with the reason, and the run continues. Errors that concern
more than a record (a model that does not load, an editor that changes it, a full disk) stop the
run; all rows so far are kept.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.benchmark.aggregate import document
from editkit.benchmark.environment import record_environment
from editkit.benchmark.inputs import load_model_of
from editkit.benchmark.observers import Observers
from editkit.benchmark.plan import Batch, Plan
from editkit.benchmark.progress import Progress
from editkit.benchmark.store import Store, exclusive, is_complete, rows_of
from editkit.benchmark.store_format import LARGEST
from editkit.data_types import Record
from editkit.editing.outcomes import unwatched
from editkit.errors import EditkitError, ModelError, PluginError, TrackingError, first_line
from editkit.interfaces import Editor, Metric, MetricRow
from editkit.redaction import redacted
from editkit.registry.plugins import Registry
from editkit.registry.random_state import seeded
from editkit.results import STORE_FILE, Cell, Row, Run
from editkit.storage.digests import plain
from editkit.storage.machine import peak_memory_of_this_process

if TYPE_CHECKING:
    from editkit.editing.deltas import WeightDelta
    from editkit.models import LanguageModel

__all__ = ["BadScores", "Collected", "Finished", "WeightGuard", "collect", "run_plan"]

_log = logging.getLogger(__name__)
_MIB = 2**20


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

    def document(self) -> dict[str, Any]:
        """The ``--json`` document."""
        return document(self.run, self.added)

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
    tracking: bool = True,
    quiet: bool = False,
) -> Finished:
    """Compute what the folder's store lacks. The model is loaded only if something is missing.

    Args:
        plan: The plan.
        out: The output folder.
        registry: Provides editors, metrics and observers.
        fresh: Discard earlier rows of this plan first.
        tracking: Whether to send results to tracking services.
        quiet: Show no progress.

    Raises:
        StoreError: The folder is in use, or its store cannot be used.
        ModelError: The model cannot be loaded, or has no chat template although records need one.
        PluginError: An editor or metric cannot be prepared, or an editor changed the model.
    """
    fingerprints = [planned.cell.fingerprint for planned in plan.cells]
    with exclusive(out, plan.shard), Store(out / STORE_FILE) as store:
        records = [record for batch in plan.batches for record in batch.records]
        if fresh:
            for fingerprint in fingerprints:
                store.discard(fingerprint, [record.case_id for record in records])
        store.drop_damaged_descriptions(fingerprints)
        for fingerprint in fingerprints:
            store.drop_damaged(fingerprint)
        remaining = [plan.remaining(planned.cell, store) for planned in plan.cells]
        n_left = sum(len(batch.records) for batches in remaining for batch in batches)
        model = _load(plan) if n_left else None
        description = model.describe() if model else _known_model(plan, store)
        if model and any(record.request.chat for record in records):
            _ = model.chat_template  # raises here, once, instead of in every record
        if model:
            record_environment(description, store, fingerprints)
        run = plan.run(out, description, tracking=tracking)
        for cell in run.cells:
            store.put_cell(cell.fingerprint, run.describe(cell))
        requests = {record.case_id: record.request for record in records}
        store.put_requests(str(run.dataset["digest"]), requests)
        observers = Observers(registry)
        observers.run_started(run)
        total = plan.n_records * len(plan.cells)
        with Progress(total, total - n_left, quiet=quiet) as progress:
            runners: dict[str, _CellRunner] = {}
            if model:
                shared = _Shared(run, store, observers, progress, model, WeightGuard(model))
                shared.metrics = _prepared_metrics(plan, registry)
                # Build all editors first: broken ones show up before any work is done.
                for planned, batches in zip(plan.cells, remaining, strict=True):
                    if batches:
                        editor = registry.build("editor", planned.cell.editor, planned.config)
                        editor.check(model)
                        runner = _CellRunner(shared, planned.cell, editor, batches)
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


def _prepared_metrics(plan: Plan, registry: Registry) -> list[tuple[str, Metric[Any]]]:
    """The metrics by name. All cells are scored by the same objects."""
    prepared = []
    for planned in plan.metrics:
        name = planned.offer.name
        metric: Metric[Any] = registry.build("metric", name, planned.resolved.config)
        try:
            metric.prepare(plan.texts)
        except (EditkitError, MemoryError):
            raise
        except Exception as error:
            raise PluginError(
                f"metric {name!r} could not be prepared: {_reason(error)}.",
                hint="--debug shows the traceback; --metrics chooses other metrics.",
            ) from error
        prepared.append((name, metric))
    return prepared


# ---------------------------------------------------------------- one cell


@dataclasses.dataclass
class _Shared:
    """What the cells of a run have in common."""

    run: Run
    store: Store
    observers: Observers
    progress: Progress
    model: LanguageModel
    guard: WeightGuard
    metrics: Sequence[tuple[str, Metric[Any]]] = ()


class _CellRunner:
    """One editor over its remaining batches."""

    def __init__(
        self, shared: _Shared, cell: Cell, editor: Editor[Any], batches: Sequence[Batch]
    ) -> None:
        from editkit.editing.delta_effects import Effects

        self.shared, self.cell, self.editor, self.batches = shared, cell, editor, batches
        self.model = shared.model
        self.effects = Effects(shared.model)

    def run(self) -> None:
        shared = self.shared
        shared.progress.label(self.cell.editor)
        prepare_s = self._prepare()
        written: list[int] = []
        for batch in self.batches:
            try:
                rows = self._edit_and_score(batch.index, batch.records)
            except Exception as error:
                if _stops_the_run(error):
                    raise
                _log.debug("batch %d of %s failed", batch.index, self.cell.editor, exc_info=error)
                rows = [self._alone(batch.index, record) for record in batch.records]
            rows = _finished(rows, prepare_s)
            self._check_weights(written)
            shared.store.put_rows(self.cell.fingerprint, rows)
            written += [row.case_id for row in rows]
            for row in rows:
                shared.observers.record_finished(shared.run, self.cell, row)
            shared.progress.advance(len(rows))
        self._check_weights(written)

    def _prepare(self) -> float:
        """Prepare the editor; returns the seconds that it took."""
        started = time.perf_counter()
        try:
            with seeded(self.cell.seed, "prepare"):
                self.editor.prepare(self.model)
        except (EditkitError, MemoryError):
            raise
        except Exception as error:
            raise PluginError(
                f"{self._who()} could not be prepared: {_reason(error)}.",
                hint="--debug shows the traceback; --editor chooses other editors.",
            ) from error
        return time.perf_counter() - started

    def _alone(self, index: int, record: Record) -> Row:
        """A record of a batch that failed, on its own: only the record at fault fails again."""
        try:
            return self._edit_and_score(index, (record,))[0]
        except Exception as error:
            if _stops_the_run(error):
                raise
            _log.debug("case %d of %s failed", record.case_id, self.cell.editor, exc_info=error)
            return _failed(record, _reason(error))

    def _edit_and_score(self, index: int, records: Sequence[Record]) -> list[Row]:
        """One row per record, in order; ``index`` is the batch's, which seeds the edit."""
        with seeded(self.cell.seed, index):
            started = time.perf_counter()
            with unwatched():  # edits without effect are reported with the table
                deltas = self.editor.edit(self.model, [record.request for record in records])
            if len(deltas) != len(records):
                raise PluginError(
                    f"{self._who()} returned {len(deltas)} deltas for {len(records)} requests.",
                    hint="Report this to the editor's author; --editor chooses other editors.",
                )
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

    def _score(
        self, deltas: list[WeightDelta], records: list[Record]
    ) -> list[list[tuple[str, MetricRow]]]:
        """Name and answer of every metric, for each record."""
        from editkit.editing.edited_models import EditedModels

        if not records:
            return []
        models = EditedModels(self.model, deltas, seed=self.cell.seed)
        columns = []
        for name, metric in self.shared.metrics:
            answers = metric.score(models, records)
            if len(answers) != len(records):
                raise PluginError(
                    f"metric {name!r} returned {len(answers)} answers for {len(records)} records.",
                    hint="Report this to the metric's author; --metrics chooses other metrics.",
                )
            columns.append([(name, answer) for answer in answers])
        return [list(answers) for answers in zip(*columns, strict=True)]

    def _check_weights(self, written: list[int]) -> None:
        """Discard the cell's rows of this run and raise if the editor changed the model."""
        if self.shared.guard.is_unchanged():
            return
        self.shared.store.discard(self.cell.fingerprint, written)
        raise PluginError(
            f"{self._who()} changed the model's own weights, expected them bit-identical. "
            "Its rows of this run were discarded.",
            hint="Report this to the editor's author; --editor chooses other editors.",
        )

    def _who(self) -> str:
        return f"editor {self.cell.editor!r} of {self.cell.distribution} {self.cell.version}"


def _finished(rows: Sequence[Row], prepare_s: float) -> list[Row]:
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


def _row(
    record: Record,
    notes: Mapping[str, Any],
    answers: list[tuple[str, MetricRow]] | None,
    times: Mapping[str, float],
) -> Row:
    if answers is None:
        return _failed(record, "the edit is not finite", times, notes)
    try:
        collected = collect(answers)
    except BadScores as error:
        return _failed(record, str(error), times, notes)
    return Row(
        record.case_id,
        "done",
        collected.scores,
        collected.details,
        times,
        notes,
        texts=collected.texts,
    )


def _failed(
    record: Record,
    reason: str,
    times: Mapping[str, float] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Row:
    return Row(record.case_id, "failed", times=times or {}, notes=notes or {}, error=reason)


def _stops_the_run(error: Exception) -> bool:
    """Whether an error is about the plugin or the machine, not the record."""
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return out_of_memory or isinstance(error, PluginError)


def _reason(error: Exception) -> str:
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


# ---------------------------------------------------------------- answers of metrics


class BadScores(Exception):
    """A metric's answer about a record is unusable; the message says why."""


@dataclasses.dataclass(frozen=True)
class Collected:
    """The answers of all metrics about one record, by type."""

    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    details: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    texts: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def collect(answers: Iterable[tuple[str, MetricRow]]) -> Collected:
    """Sort the answers of all metrics about one record into scores, details and texts.

    Metrics that read the same texts may all return them, under the same key.

    Args:
        answers: Name and answer of each metric.

    Raises:
        BadScores: A number is not finite, a value is neither a number nor a text, or two metrics
            use one key for different values.
    """
    collected = Collected()
    for metric, answer in answers:
        for key, value in answer.items():
            texts = _texts(value)
            if texts is not None and collected.texts.get(key, texts) != texts:
                raise BadScores(
                    f"metric {metric!r} has other texts for {key!r} than another metric"
                )
            if (
                key in collected.scores
                or key in collected.details
                or (key in collected.texts and not texts)
            ):
                raise BadScores(f"metric {metric!r} repeats {key!r} of another metric")
            if texts is not None:
                if not all(map(_is_unicode, texts)):
                    raise BadScores(
                        f"metric {metric!r} has a text for {key!r} with invalid Unicode"
                    )
                collected.texts[key] = texts
            elif isinstance(value, Sequence) and not isinstance(value, str):
                collected.details[key] = [_number(metric, key, item) for item in value]
            else:
                collected.scores[key] = _number(metric, key, value)
    return collected


def _texts(value: Any) -> list[str] | None:
    """A non-empty list of texts; None for any other value."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return list(value) if is_list and value and all(isinstance(v, str) for v in value) else None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(metric: str, key: str, value: Any) -> float:
    try:
        number = float(value)  # accepts scalars of numpy and torch
    except (TypeError, ValueError):
        raise BadScores(f"metric {metric!r} gives {key} = {value!r}, expected a number") from None
    if not math.isfinite(number):
        raise BadScores(f"metric {metric!r} gives {key} = {number}, which is not finite")
    if abs(number) > LARGEST:
        raise BadScores(f"metric {metric!r} gives {key} = {number:g}, beyond {LARGEST:g}")
    return number
