"""Running one cell in the regimes in which records share a model: joint edits and sequences.

A group is written in steps: a joint edit is a single step of all its facts, and an editor that
writes one fact at a time takes the facts of a step one after the other. After each step the merged
delta and the editor's state are saved, so a killed run loses one step at most. Each step has random
numbers of its own, so a resumed sequence ends in the same bits.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.benchmark.cell_runner import (
    CellRunner,
    Shared,
    failed_row,
    finished,
    reason_of,
    row_of,
    stops_the_run,
)
from editkit.benchmark.metric_answers import BadScores, collect
from editkit.benchmark.plan import Batch
from editkit.benchmark.repeated_edits import edits_to_write, notes_of_record
from editkit.benchmark.sequence_files import SequenceFiles, Written
from editkit.data_types import EditRequest, Record
from editkit.editing.outcomes import CONTEXT_TEXTS, ROUNDED_AWAY, unwatched
from editkit.errors import PluginError
from editkit.interfaces import Editor, State
from editkit.progress import counting
from editkit.registry.random_state import seeded
from editkit.results import Cell, ModelRow, Row
from editkit.storage.digests import plain

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.editing.deltas import WeightDelta

__all__ = ["GroupRunner"]

_OF_STEPS = ("delta_norm", CONTEXT_TEXTS, ROUNDED_AWAY)
"""Notes about a step, whichever edits it wrote."""

_log = logging.getLogger(__name__)


class _UnusableError(Exception):
    """A step's delta cannot be used; the message says why."""


class GroupRunner(CellRunner):
    """Groups of records, each written into one model.

    Args:
        shared: What the cells of a run have in common.
        cell: The cell.
        editor: Its editor.
        units: The groups that lack rows.
        out: The output folder.
        together: Whether the editor writes all records of a step at once.
        stored: Checkpoints of each group, by its index, that are stored already.
    """

    def __init__(
        self,
        shared: Shared,
        cell: Cell,
        editor: Editor[Any],
        units: Sequence[Batch],
        *,
        out: Path,
        together: bool,
        stored: dict[int, frozenset[int]],
    ) -> None:
        super().__init__(shared, cell, editor, units)
        self.out, self.together, self.stored = out, together, stored

    def run(self) -> None:
        """Write and score each group, from where an interrupted run stopped."""
        self.shared.progress.relabel(self.cell.editor)
        self.prepare_s = self.prepare()
        for group in self.units:
            self._run_group(group)

    def _run_group(self, group: Batch) -> None:
        files = SequenceFiles(self.out, self.cell.fingerprint, group.index)
        regime, n = self.cell.regime, len(group.records)
        marks = regime.checkpoints_of(n)
        written = self._resumed(files, group, marks)
        self.shared.progress(written.facts)
        steps = [(0, n)] if regime.kind == "joint" else regime.steps_of(n)
        for _, end in steps:
            while written.facts < end:
                size = end - written.facts if self.together else 1
                written = self._grown(group, written, size)
                if n > 1:
                    files.save(written)
                self.shared.progress(size)
            mark = 0 if regime.kind == "joint" else end
            if mark in marks:
                if mark not in self.stored.get(group.index, frozenset()):
                    self._score_group(group, written, mark)
                self.shared.progress(end)
        if n > 1:
            files.finish(written)

    def _resumed(self, files: SequenceFiles, group: Batch, marks: Sequence[int]) -> Written:
        """What an interrupted run left, unless earlier rows are missing: then nothing."""
        requests = [record.requests for record in group.records]
        written = files.load(requests) or Written()
        stored = self.stored.get(group.index, frozenset())
        if written.facts and all(m in stored for m in marks if m < written.facts and m):
            _log.info(
                "%s (%s): resumes after %d of %d facts",
                *(self.cell.editor, self.cell.regime.label, written.facts, len(group.records)),
            )
            return written
        self._discard(group)
        files.remove()
        return Written()

    def _discard(self, group: Batch) -> None:
        cases = [record.case_id for record in group.records]
        self.shared.store.discard(self.cell.fingerprint, cases, [group.index])
        self.stored.pop(group.index, None)

    # ------------------------------------------------------------ writing facts

    def _grown(self, group: Batch, written: Written, size: int) -> Written:
        """One step: the next ``size`` records on top of what was written."""
        from editkit.editing.deltas import compacted, notes_of_facts, stack

        records = group.records[written.facts : written.facts + size]
        started = time.perf_counter()
        with seeded(self.cell.seed, "step", group.index, written.facts), self._as_written(written):
            step, errors = self._step(records, written)
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
        try:
            return self._attempt(records, written), {}
        except Exception as error:
            if stops_the_run(error):
                raise
            _log.debug("a step of %s failed", self.cell.editor, exc_info=error)
            if len(records) == 1:
                return None, {0: reason_of(error)}
        errors = dict(self._failing(records, written, 0))
        good = [record for i, record in enumerate(records) if i not in errors]
        if not good:
            return None, errors
        try:
            return self._attempt(good, written), errors
        except Exception as error:
            if stops_the_run(error):
                raise
            why = reason_of(error)
            return None, {i: errors.get(i, why) for i in range(len(records))}

    def _failing(
        self, records: Sequence[Record], written: Written, first: int
    ) -> Iterator[tuple[int, str]]:
        """The records that fail on their own, found by halving; places count from ``first``."""
        try:
            self._attempt(records, written)
        except Exception as error:
            if stops_the_run(error):
                raise
            if len(records) == 1:
                yield first, reason_of(error)
                return
            half = len(records) // 2
            yield from self._failing(records[:half], written, first)
            yield from self._failing(records[half:], written, first + half)

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

    def _score_group(self, group: Batch, written: Written, mark: int) -> None:
        """Score all facts so far, and the model, and store the rows."""
        started = time.perf_counter()
        records = group.records[: written.facts]
        delta = written.delta or self._nothing()
        sound = [record for i, record in enumerate(records) if i not in written.errors]
        answers: dict[int, Row] = {}
        with counting("scoring", len(sound), unit="fact") as advance:
            for start in range(0, len(sound), self.shared.batch):
                some = sound[start : start + self.shared.batch]
                for row in self._scored(delta, some):
                    answers[row.case_id] = row
                advance(len(some))
        score_s = (time.perf_counter() - started) / max(1, len(records))
        models = [self._model_row(group, written, delta, mark)]
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
        ended = written.facts == len(group.records)
        rows = finished(rows, self.prepare_s)
        if not self.shared.guard.is_unchanged():
            self._discard(group)
            SequenceFiles(self.out, self.cell.fingerprint, group.index).remove()
            self.check_weights([])
        self.shared.store.put_rows(self.cell.fingerprint, rows, models, ended=ended)
        if ended:
            for row in rows:
                self.shared.observers.record_finished(self.shared.run, self.cell, row)

    def _scored(self, delta: WeightDelta, records: list[Record]) -> list[Row]:
        """The scores of some records under one delta."""
        try:
            with seeded(self.cell.seed, "score", records[0].case_id):
                answers = self.score([delta] * len(records), records)
        except Exception as error:
            if stops_the_run(error):
                raise
            _log.debug("scoring of %s failed", self.cell.editor, exc_info=error)
            if len(records) == 1:
                return [failed_row(records[0], reason_of(error))]
            return [row for record in records for row in self._scored(delta, [record])]
        return [
            row_of(record, {}, answer, {}) for record, answer in zip(records, answers, strict=True)
        ]

    def _model_row(self, group: Batch, written: Written, delta: WeightDelta, mark: int) -> ModelRow:
        from editkit.editing.edited_models import EditedModels

        started = time.perf_counter()
        models = EditedModels(self.model, [delta], seed=self.cell.seed)
        answers, errors = [], {}
        for name, metric in self.shared.model_metrics:
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
