"""What a worker does for a cell in which records share a model: joint edits and sequences.

A group is written in steps: a joint edit is a single step of all its facts, and an editor that
writes one fact at a time takes the facts of a step one after the other. The merged delta and the
editor's state are answered after each step in the driver's own process, which then loses one step
at most when it is killed; other workers answer them at checkpoints and once a minute. Each step has
random numbers of its own, so a resumed sequence ends in the same bits.

A record is one fact, or several that are always written in the same step. An edit that the model
was taught already, by an earlier record, is not written again. A record that fails gets failed
rows, and the group continues without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit.benchmark.cell_bench import (
    CellBench,
    Instruments,
    failed_row,
    finished,
    reason_of,
    row_of,
    stops_the_run,
)
from editkit.benchmark.jobs import (
    Advanced,
    Answer,
    Job,
    Part,
    Rows,
    Saved,
    Trying,
    WeightsChanged,
    Written,
)
from editkit.benchmark.metric_answers import BadScores, collect
from editkit.benchmark.plan import Batch
from editkit.benchmark.repeated_edits import edits_to_write, notes_of_record
from editkit.data_types import EditRequest, Record
from editkit.editing.outcomes import CONTEXT_TEXTS, ROUNDED_AWAY, unwatched
from editkit.errors import PluginError
from editkit.interfaces import Editor, State
from editkit.progress import counting
from editkit.registry.random_state import seeded
from editkit.results import Cell, ModelRow, Row
from editkit.storage.digests import plain
from editkit.storage.machine import free_memory

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.editing.deltas import WeightDelta

__all__ = ["GroupBench"]

_OF_STEPS = ("delta_norm", CONTEXT_TEXTS, ROUNDED_AWAY)
"""Notes about a step, whichever edits it wrote."""

_BYTES_PER_SECOND = 2**24
"""Of states that are answered, at most."""

_log = logging.getLogger(__name__)


class _UnusableError(Exception):
    """A step's delta cannot be used; the message says why."""


class GroupBench(CellBench):
    """Groups of records, each written into one model.

    Args:
        instruments: What the cells of a run have in common.
        cell: The cell.
        editor: Its editor.
        together: Whether the editor writes all records of a step at once.
        seconds_between_states: How long a state is kept here before it is answered.
    """

    def __init__(
        self,
        instruments: Instruments,
        cell: Cell,
        editor: Editor[Any],
        *,
        together: bool,
        seconds_between_states: float,
    ) -> None:
        super().__init__(instruments, cell, editor)
        self.together, self.seconds_between_states = together, seconds_between_states

    def do(self, job: Job) -> Iterator[Answer]:
        """Write and score a group, from where it was left."""
        group, regime, n = job.unit, self.cell.regime, len(job.unit.records)
        marks = regime.checkpoints_of(n)
        written = answered = job.written
        answered_at = time.monotonic()
        scored = 0
        yield Advanced(written.facts)
        steps = [(0, n)] if regime.kind == "joint" else regime.steps_of(n)
        for _, end in steps:
            mark = 0 if regime.kind == "joint" else end
            while written.facts < end:
                size = end - written.facts if self.together else 1
                part = Part("step", written.facts)
                if job.care is not None and part not in job.care.given_up:
                    yield Trying(part)
                written = self._grown(group, written, size, given_up=job.given_up(part))
                waited = time.monotonic() - answered_at
                if n > 1 and (job.care is not None or waited >= self._pause_after(written)):
                    yield Saved(written)
                    answered, answered_at = written, time.monotonic()
                yield Advanced(written.facts + scored)
            if mark in marks:
                if mark not in job.stored:
                    if n > 1 and answered is not written:
                        yield Saved(written)
                        answered, answered_at = written, time.monotonic()
                    yield from self._score_group(job, written, mark)
                scored += end
                yield Advanced(written.facts + scored)

    def _pause_after(self, written: Written) -> float:
        """Seconds between two states: longer for large ones, which take long to send and save."""
        if not self.seconds_between_states or written.delta is None:
            return self.seconds_between_states
        tensors = [*written.state.values()]
        for change in written.delta.changes.values():
            tensors += change.tensors().values()
        n_bytes = sum(tensor.nbytes for tensor in tensors)
        return max(self.seconds_between_states, n_bytes / _BYTES_PER_SECOND)

    # ------------------------------------------------------------ writing facts

    def _grown(
        self, group: Batch, written: Written, size: int, *, given_up: str | None = None
    ) -> Written:
        """One step: the next ``size`` records on top of what was written, unless it is given up."""
        from editkit.editing.deltas import compacted, notes_of_facts, stack

        records = group.records[written.facts : written.facts + size]
        started = time.perf_counter()
        if given_up is None:
            with (
                seeded(self.cell.seed, "step", group.index, written.facts),
                self._as_written(written),
            ):
                step, errors = self._step(records, written)
        else:
            step, errors = None, dict.fromkeys(range(size), given_up)
        seconds = (time.perf_counter() - started) / size
        delta, state = written.delta or self._nothing(), written.state
        effects: dict[str, Any] = {}
        own: dict[EditRequest, dict[str, Any]] = {}
        if step is not None:
            new, state = step
            effects = self.effects.of(new)
            own = dict(zip(new.requests, notes_of_facts(new), strict=True))
            delta = compacted(stack([delta, new])) if written.delta else new
        delta = dataclasses.replace(
            delta,
            request=tuple(delta.requests),
            editor=self.cell.editor,
            config=self.editor.config.model_dump(mode="json"),
            notes={},
        )
        good = {i: record for i, record in enumerate(records) if i not in errors}
        if any(request not in own for record in good.values() for request in record.requests):
            own = {**_notes_so_far(group, written), **own}
        notes = {
            i: {**effects, **plain(notes_of_record(record.requests, own))}
            for i, record in good.items()
        }
        return Written(
            facts=written.facts + size,
            delta=delta,
            state=state,
            notes=(*written.notes, *(notes.get(i, {}) for i in range(size))),
            seconds=(*written.seconds, *([seconds] * size)),
            errors={**written.errors, **{written.facts + i: why for i, why in errors.items()}},
        )

    def _nothing(self) -> WeightDelta:
        from editkit.editing.deltas import WeightDelta

        return WeightDelta({}, (), self.cell.editor, {}, self.model.fingerprint)

    @contextlib.contextmanager
    def _as_written(self, written: Written) -> Iterator[None]:
        """Inside, the model has everything that was written so far."""
        from editkit.editing.deltas import applied

        if written.delta is None or not written.delta.changes:
            yield
            return
        with applied(self.model, written.delta.without_context()):
            yield

    def _step(
        self, records: Sequence[Record], written: Written
    ) -> tuple[tuple[WeightDelta, State] | None, dict[int, str]]:
        """The delta and state of a step, or None; and why records failed, by their place."""
        step, reason = self._tried(records, written)
        if reason is None:
            return step, {}
        if len(records) == 1:
            return None, {0: reason}
        errors = dict(self._failing(records, written, 0))
        good = [record for i, record in enumerate(records) if i not in errors]
        if not good:
            return None, errors
        step, reason = self._tried(good, written)
        if reason is None:
            return step, errors
        return None, {i: errors.get(i, reason) for i in range(len(records))}

    def _failing(
        self, records: Sequence[Record], written: Written, first: int
    ) -> Iterator[tuple[int, str]]:
        """The records that fail on their own, found by halving; places count from ``first``."""
        _, reason = self._tried(records, written)
        if reason is None:
            return
        if len(records) == 1:
            yield first, reason
            return
        half = len(records) // 2
        yield from self._failing(records[:half], written, first)
        yield from self._failing(records[half:], written, first + half)

    def _tried(
        self, records: Sequence[Record], written: Written
    ) -> tuple[tuple[WeightDelta, State] | None, str | None]:
        """The delta and state of some records, None if all was written before; or why it failed."""
        try:
            return self._attempt(records, written), None
        except Exception as error:
            if stops_the_run(error):
                raise
            _log.debug("a step of %s failed", self.cell.editor, exc_info=error)
            reason = reason_of(error)
        free_memory()
        return None, reason

    def _attempt(
        self, records: Sequence[Record], written: Written
    ) -> tuple[WeightDelta, State] | None:
        """The delta of some records and the state after it; None if all was written before."""
        before = written.delta.requests if written.delta else ()
        requests = edits_to_write([record.requests for record in records], before)
        if not requests:
            return None
        with unwatched():  # edits without effect are reported with the table
            answer = self.editor.step(self.model, requests, written.state)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise PluginError(
                f"{self.who()} returned {type(answer).__name__} from step(), expected a delta and "
                "the state.",
                hint="Report this to the editor's author; --editor chooses other editors.",
            )
        delta, after = answer
        if not isinstance(after, Mapping) or not all(map(_is_named_tensor, after.items())):
            raise PluginError(
                f"{self.who()} returned the state {after!r:.80} from step(), expected a mapping "
                "from names to tensors.",
                hint="Report this to the editor's author; --editor chooses other editors.",
            )
        self.check_joint(delta, requests)
        if not delta.is_finite():
            raise _UnusableError("the edit is not finite")
        return _as_loaded(delta), {name: _stored(tensor) for name, tensor in after.items()}

    # ------------------------------------------------------------ scoring

    def _score_group(self, job: Job, written: Written, mark: int) -> Iterator[Answer]:
        """Score all facts so far, and the model."""
        started = time.perf_counter()
        group = job.unit
        records = group.records[: written.facts]
        delta = written.delta or self._nothing()
        sound = [record for i, record in enumerate(records) if i not in written.errors]
        answers: dict[int, Row] = {}
        size = self.instruments.batch if job.care is None else 1
        with counting("scoring", len(sound), unit="fact") as advance:
            for start in range(0, len(sound), size):
                some = sound[start : start + size]
                part = Part("facts", some[0].case_id, mark)
                reason = job.given_up(part)
                if reason is not None:
                    scored = [failed_row(record, reason) for record in some]
                else:
                    if job.care is not None:
                        yield Trying(part)
                    scored = self._scored(delta, some)
                answers |= {row.case_id: row for row in scored}
                advance(len(some))
        score_s = (time.perf_counter() - started) / max(1, len(records))
        part = Part("model", 0, mark)
        if job.care is not None and part not in job.care.given_up:
            yield Trying(part)
        models = [self._model_row(group, delta, mark, given_up=job.given_up(part))]
        rows = []
        for i, record in enumerate(records):
            row = answers.get(record.case_id) or failed_row(record, written.errors[i])
            rows.append(
                dataclasses.replace(
                    row,
                    notes=dict(written.notes[i]),
                    times={"edit_s": written.seconds[i], "score_s": score_s},
                    group=group.index,
                    place=i + 1,
                    checkpoint=mark,
                )
            )
        rows = finished(rows, self.prepare_s)
        if self.instruments.guard.is_unchanged():
            yield Rows(rows, models, ended=written.facts == len(group.records))
        else:
            yield WeightsChanged()

    def _scored(self, delta: WeightDelta, records: list[Record]) -> list[Row]:
        """The scores of some records under one delta; if that fails, record by record."""
        try:
            with seeded(self.cell.seed, "score", records[0].case_id):
                answers = self.score([delta] * len(records), records)
            return [
                row_of(record, {}, answer, {})
                for record, answer in zip(records, answers, strict=True)
            ]
        except Exception as error:
            if stops_the_run(error):
                raise
            _log.debug("scoring of %s failed", self.cell.editor, exc_info=error)
            reason = reason_of(error)
        free_memory()
        if len(records) == 1:
            return [failed_row(records[0], reason)]
        return [row for record in records for row in self._scored(delta, [record])]

    def _model_row(
        self, group: Batch, delta: WeightDelta, mark: int, *, given_up: str | None = None
    ) -> ModelRow:
        from editkit.editing.edited_models import EditedModels

        started = time.perf_counter()
        models = EditedModels(self.model, [delta], seed=self.cell.seed, weights_known=True)
        answers, errors = [], {}
        for name, metric in self.instruments.model_metrics:
            if given_up is not None:
                errors[name] = given_up
                continue
            try:
                with seeded(self.cell.seed, "model", group.index, mark):
                    [answer] = metric.score(models)
                collect([(name, answer)])
                answers.append((name, answer))
            except Exception as error:
                if stops_the_run(error):
                    raise
                _log.debug("metric %s failed", name, exc_info=error)
                errors[name] = str(error) if isinstance(error, BadScores) else reason_of(error)
        try:
            collected = collect(answers)
        except BadScores as error:
            raise PluginError(
                f"{error}.", hint="Leave one of the two metrics out (--model-metrics)."
            ) from None
        return ModelRow(
            group=group.index,
            checkpoint=mark,
            scores=collected.scores,
            details=collected.details,
            texts=collected.texts,
            times={"score_s": time.perf_counter() - started},
            errors=errors,
            completed_at=time.time(),
            delta=delta.digest(),
        )


def _notes_so_far(group: Batch, written: Written) -> dict[EditRequest, dict[str, Any]]:
    """The notes of every edit that was written in earlier steps."""
    notes: dict[EditRequest, dict[str, Any]] = {}
    for i, (record, own) in enumerate(zip(group.records, written.notes, strict=False)):
        if i in written.errors:
            continue
        of_record = {key: value for key, value in own.items() if key not in _OF_STEPS}
        facts = own.get("facts") if record.also else [of_record]
        for request, of_fact in zip(record.requests, facts or [], strict=True):
            notes[request] = dict(of_fact)
    return notes


# ---------------------------------------------------------------- as a resumed run would load it


def _as_loaded(delta: WeightDelta) -> WeightDelta:
    """The delta with its tensors in memory as in a file: the next step must see the same bits."""
    changes = {}
    for name, change in delta.changes.items():
        tensors = {field: _stored(tensor) for field, tensor in change.tensors().items()}
        changes[name] = dataclasses.replace(change, **tensors)
    return dataclasses.replace(delta, changes=changes)


def _stored(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _is_named_tensor(item: tuple[object, object]) -> bool:
    from torch import Tensor

    return isinstance(item[0], str) and isinstance(item[1], Tensor)
