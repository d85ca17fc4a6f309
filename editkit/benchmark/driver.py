"""The driver of a run: it hands units of work to workers and stores what they answer.

Only the driver touches the output folder, calls observers and shows progress. Wherever the workers
are, units are those of the plan, so rows do not depend on who computes them.

A unit that loses its worker is done again, a group of facts from its last state. Once it has lost
three workers without rows in between, or one that ran out of memory, it is done part by part. A
part that loses three gets failed rows, and the run continues.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter as Counts
from collections import deque
from collections.abc import Hashable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from editkit.benchmark.cell_bench import editor_of
from editkit.benchmark.completeness import is_complete
from editkit.benchmark.environment import environment_changes
from editkit.benchmark.jobs import (
    Advanced,
    Answer,
    Begun,
    Care,
    Job,
    Part,
    Rows,
    Saved,
    Trying,
    WeightsChanged,
    Written,
)
from editkit.benchmark.observers import Observers
from editkit.benchmark.plan import Batch, Plan
from editkit.benchmark.sequence_files import SequenceFiles
from editkit.benchmark.store import Store
from editkit.errors import ClusterError, PluginError
from editkit.progress import Counter
from editkit.results import Cell, Run
from editkit.workers.pool import MOST_LOSSES, Answered, Crew, Done, Lost

__all__ = ["Driver", "discard_units", "steps_of"]

Key = TypeVar("Key", bound=Hashable)
_Crew: TypeAlias = Crew[Job, Answer]
_log = logging.getLogger(__name__)


def steps_of(cell: Cell, unit: Batch) -> int:
    """Steps of the progress bar: facts to write, and facts to score at each later moment."""
    n = len(unit.records)
    if cell.regime.is_independent:
        return n
    return n + sum(mark or n for mark in cell.regime.checkpoints_of(n))


def discard_units(cell: Cell, units: Sequence[Batch], out: Path, store: Store) -> None:
    """Remove everything that is stored of some units of a cell."""
    cases = [record.case_id for unit in units for record in unit.records]
    groups = [] if cell.regime.is_independent else [unit.index for unit in units]
    store.discard(cell.fingerprint, cases, groups)
    for group in groups:
        SequenceFiles(out, cell.fingerprint, group).remove()


def next_cell(
    waiting: Mapping[Key, Sized], busy: Mapping[Key, int], after: Key | None
) -> Key | None:
    """The cell that a free worker takes a unit of: its last one, else the first without workers.

    Each cell's editor is thus prepared by few workers. If all cells have some, the one with the
    most units per worker gets another.

    Args:
        waiting: The units of each cell that nobody has.
        busy: Workers of each cell; a cell without any may be missing.
        after: The cell of the worker's last unit: its editor is prepared there.

    Returns:
        The cell; None if no unit waits.
    """
    if after is not None and waiting.get(after):
        return after
    left = [cell for cell, units in waiting.items() if units]
    idle = [cell for cell in left if not busy.get(cell)]
    if idle or not left:
        return next(iter(idle), None)
    return max(left, key=lambda cell: len(waiting[cell]) / busy[cell])


@dataclasses.dataclass(eq=False)
class _Unit:
    """A unit of work, and how far it is.

    Attributes:
        cell: Its cell.
        batch: A group, or the records of a batch that lack a row.
        total: Steps of the progress bar.
        steps: Those that were counted.
        files: The files of a group; None for a batch, and for a group of one.
        whole: Everything that is written into a group, once that is all of it.
        care: How it is done from now on.
        trying: The part that a worker tries, with care.
        lost: Workers that it lost since its last rows or state.
        lost_in: Workers that each part lost.
    """

    cell: Cell
    batch: Batch
    total: int
    steps: int = 0
    files: SequenceFiles | None = None
    whole: Written | None = None
    care: Care | None = None
    trying: Part | None = None
    lost: int = 0
    lost_in: Counts[Part] = dataclasses.field(default_factory=Counts)

    @property
    def name(self) -> str:
        """For messages: ``rome, batch 3``."""
        kind = "batch" if self.cell.regime.is_independent else "model"
        return f"{self.cell.editor}, {kind} {self.batch.index}"


class Driver:
    """Does the remaining units of a run.

    Args:
        plan: The plan.
        run: The run.
        left: The units that lack rows, by fingerprint of their cell.
        store: The store of the output folder.
        observers: Are called about rows and cells.
        progress: Counts steps.
        crew: The workers.
    """

    def __init__(
        self,
        plan: Plan,
        run: Run,
        left: Mapping[str, Sequence[Batch]],
        *,
        store: Store,
        observers: Observers,
        progress: Counter,
        crew: _Crew,
    ) -> None:
        self._plan, self._run, self._store, self._observers = plan, run, store, observers
        self._progress, self._crew = progress, crew
        self._waiting = {
            cell.fingerprint: deque(
                _Unit(cell, batch, steps_of(cell, batch)) for batch in left[cell.fingerprint]
            )
            for cell in run.cells
            if left.get(cell.fingerprint)
        }
        self._left = Counts({key: len(units) for key, units in self._waiting.items()})
        self._running: dict[int, _Unit] = {}
        self._busy: Counts[str] = Counts()  # workers of each cell
        self._stored: dict[str, dict[int, frozenset[int]]] = {}
        self._computed: dict[str, list[int]] = {key: [] for key in self._waiting}
        self._groups: dict[str, list[Batch]] = {key: [] for key in self._waiting}
        self._worker = ""
        self._ready: set[str] = set()  # workers that have answered with rows or steps
        self._environments: list[Mapping[str, Any]] = [crew.about["environment"]]

    def run(self) -> None:
        """Do all units.

        Raises:
            PluginError: An editor changed the model; its rows of this run are discarded.
            ClusterError: Workers are lost again and again while an editor is prepared.
            EditkitError: A worker cannot continue, or the store cannot be written.
        """
        self._keep_busy()
        for event in self._crew.events():
            match event:
                case Answered(job, answer, worker):
                    self._take(self._running[job], answer, worker)
                case Done(job):
                    unit = self._ended(job)
                    self._finish(unit)
                    self._keep_busy(after=unit.cell)
                case Lost(job):
                    unit = self._ended(job)
                    if unit.batch.records:
                        self._take_care(unit, event)
                        self._start(unit)
                    else:  # all of its rows have arrived
                        self._finish(unit)
                        self._keep_busy()

    # ------------------------------------------------------------ handing out units

    def _keep_busy(self, after: Cell | None = None) -> None:
        """Start units until every worker has one.

        Args:
            after: The cell of the unit that a worker has just done: its editor is prepared there.
        """
        while len(self._running) < self._crew.workers:
            unit = self._next(after)
            if unit is None:
                return
            self._start(unit)

    def _next(self, after: Cell | None) -> _Unit | None:
        """The next unit."""
        last = None if after is None else after.fingerprint
        chosen = next_cell(self._waiting, self._busy, last)
        return None if chosen is None else self._waiting[chosen].popleft()

    def _start(self, unit: _Unit) -> None:
        job = Job(unit.cell.fingerprint, unit.batch, care=unit.care)
        if not unit.cell.regime.is_independent:
            written, stored = self._resumed(unit)
            job = dataclasses.replace(job, written=written, stored=stored)
        self._running[self._crew.submit(job)] = unit
        self._busy[unit.cell.fingerprint] += 1

    def _ended(self, job: int) -> _Unit:
        """The unit of a job that is done or lost."""
        unit = self._running.pop(job)
        self._busy[unit.cell.fingerprint] -= 1
        return unit

    def _resumed(self, unit: _Unit) -> tuple[Written, frozenset[int]]:
        """What was written of a group before, and which of its checkpoints are stored.

        Nothing if rows of earlier checkpoints are missing: their states are gone.
        """
        cell, group, n = unit.cell, unit.batch, len(unit.batch.records)
        self._groups[cell.fingerprint].append(group)
        files = SequenceFiles(self._run.out, cell.fingerprint, group.index)
        unit.files = files if n > 1 else None
        written = files.load([record.requests for record in group.records]) or Written()
        stored = self._stored_marks(unit)
        marks = cell.regime.checkpoints_of(n)
        if written.facts and all(mark in stored for mark in marks if 0 < mark < written.facts):
            _log.info(
                "%s (%s): resumes after %d of %d facts",
                *(cell.editor, cell.regime.label, written.facts, n),
            )
            unit.whole = written if written.facts == n else None
            return written, stored
        discard_units(cell, [group], self._run.out, self._store)
        return Written(), frozenset()

    def _stored_marks(self, unit: _Unit) -> frozenset[int]:
        """The checkpoints of a group with all their rows stored."""
        cell, group = unit.cell, unit.batch
        known = self._stored.setdefault(cell.fingerprint, {})
        if group.index not in known:  # for all groups at once: this reads all rows of the cell
            rows, models = self._plan.stored(cell, self._store)
            for each in (group, *(other.batch for other in self._waiting[cell.fingerprint])):
                known[each.index] = frozenset(
                    mark
                    for mark in cell.regime.checkpoints_of(len(each.records))
                    if self._plan.has_checkpoint(cell, each, mark, rows, models)
                )
        return known.pop(group.index)  # a group that is done again has more

    # ------------------------------------------------------------ what workers answer

    def _take(self, unit: _Unit, answer: Answer, worker: str) -> None:
        self._handle(unit, answer, worker)
        if isinstance(answer, Rows | Advanced) and worker not in self._ready:
            self._ready.add(worker)  # it has loaded the model and prepared an editor
            self._progress.estimate_from_here(enough=len(self._ready) * self._plan.batch)

    def _handle(self, unit: _Unit, answer: Answer, worker: str) -> None:
        match answer:
            case Begun():
                self._progress.relabel(unit.cell.editor)
            case Rows():
                self._keep(unit, answer, worker)
            case Saved(written):
                if unit.files is not None:
                    unit.files.save(written)
                unit.whole = written if written.facts == len(unit.batch.records) else None
                unit.lost = 0
            case Advanced(steps):
                self._count(unit, steps)
            case WeightsChanged():
                self._discard(unit.cell)
                raise PluginError(
                    f"{editor_of(unit.cell)} changed the model's own weights, expected them "
                    "bit-identical. Its rows of this run were discarded.",
                    hint="Report this to the editor's author; --editor chooses other editors.",
                )
            case Trying(part):
                unit.trying = part

    def _keep(self, unit: _Unit, answer: Rows, worker: str) -> None:
        """Store rows and report them to observers."""
        cell = unit.cell
        self._record_environment_of(worker)
        self._store.put_rows(cell.fingerprint, answer.rows, answer.models, ended=answer.ended)
        unit.lost = 0
        if cell.regime.is_independent:
            done = {row.case_id for row in answer.rows}
            left = tuple(each for each in unit.batch.records if each.case_id not in done)
            unit.batch = dataclasses.replace(unit.batch, records=left)
            self._computed[cell.fingerprint] += done
        if answer.ended:
            for row in answer.rows:
                self._observers.record_finished(self._run, cell, row)
        if cell.regime.is_independent:
            self._count(unit, unit.steps + len(answer.rows))

    def _record_environment_of(self, worker: str) -> None:
        """Have the store record where the next rows were computed; warn if that is elsewhere."""
        if worker == self._worker:
            return
        self._worker = worker
        environment = self._crew.about_worker(worker)["environment"]
        if environment not in self._environments:
            self._environments.append(environment)
            _log.warning(
                "worker %s computes in another environment than the first one (there, here: %s). "
                "Its rows may differ from those of other workers in the last digits.",
                worker,
                "; ".join(environment_changes(self._environments[0], environment)),
            )
        if len(self._environments) > 1:
            self._store.computed_with(environment)

    def _count(self, unit: _Unit, steps: int) -> None:
        """Advance the progress bar; what is done again is not counted again."""
        self._progress(max(0, steps - unit.steps))
        unit.steps = max(unit.steps, steps)

    def _finish(self, unit: _Unit) -> None:
        if unit.files is not None and unit.whole is not None:
            unit.files.finish(unit.whole)
        self._count(unit, unit.total)
        cell = unit.cell
        self._left[cell.fingerprint] -= 1
        if not self._left[cell.fingerprint] and is_complete(self._run, cell, checked=True):
            self._observers.cell_finished(self._run, cell)

    def _discard(self, cell: Cell) -> None:
        """Remove the rows of a cell that this run computed."""
        self._store.discard(cell.fingerprint, self._computed[cell.fingerprint])
        if not cell.regime.is_independent:
            discard_units(cell, self._groups[cell.fingerprint], self._run.out, self._store)

    # ------------------------------------------------------------ lost workers

    def _take_care(self, unit: _Unit, event: Lost) -> None:
        """Decide how a unit is done again after it lost a worker.

        Raises:
            ClusterError: It has lost too many before they tried anything.
        """
        _log.warning("%s: its worker was lost (%s). It is done again.", unit.name, event.reason)
        unit.lost += 1
        part, unit.trying = unit.trying, None
        if unit.care is None:
            if event.out_of_memory or unit.lost >= MOST_LOSSES:
                _log.warning("%s: is done part by part from now on.", unit.name)
                unit.care, unit.lost = Care(), 0
        elif part is not None:
            unit.lost_in[part] += 1
            if unit.lost_in[part] >= MOST_LOSSES:
                reason = f"{MOST_LOSSES} workers were lost in a row: {event.reason}"
                _log.warning("%s: gives up %s: %s.", unit.name, part, reason)
                unit.care = Care({**unit.care.given_up, part: reason})
        elif unit.lost >= MOST_LOSSES:
            raise ClusterError(
                f"{MOST_LOSSES} workers in a row were lost while {editor_of(unit.cell)} was "
                f"prepared: {event.reason}.",
                hint="Give each worker more memory (fewer --workers), or choose other editors with "
                "--editor.",
            )
