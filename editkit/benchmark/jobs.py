"""What the driver of a run and its workers exchange: jobs, and what workers answer.

A job is one unit of a plan: a batch of records, or a group of records that share a model. Parts of
a unit matter only after it killed workers: the driver then asks for *care*, a worker announces each
part before it tries it, and the driver gives up the parts that killed the worker again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from editkit.benchmark.plan import Batch
from editkit.interfaces import State
from editkit.reprs import counted
from editkit.results import ModelRow, Row

if TYPE_CHECKING:
    from editkit.editing.deltas import WeightDelta

__all__ = [
    "Advanced",
    "Answer",
    "Begun",
    "Care",
    "Job",
    "Part",
    "Rows",
    "Saved",
    "Trying",
    "WeightsChanged",
    "Written",
]


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written into a model so far.

    Attributes:
        facts: Number of records, in order, failed ones included.
        delta: All of them merged, on the unedited model; None before the first one.
        state: What the editor passes to its next step.
        notes: The notes of each record.
        seconds: Seconds per record.
        errors: Why a record failed, by its place from 0.
    """

    facts: int = 0
    delta: WeightDelta | None = None
    state: State = dataclasses.field(default_factory=dict)
    notes: Sequence[Mapping[str, Any]] = ()
    seconds: Sequence[float] = ()
    errors: Mapping[int, str] = dataclasses.field(default_factory=dict)


# ---------------------------------------------------------------- jobs


@dataclasses.dataclass(frozen=True)
class Part:
    """The smallest part of a unit that a worker tries on its own.

    Attributes:
        kind: A ``record`` is edited and scored; a ``step`` writes facts into a shared model, which
            is scored on the ``facts`` of one record, or as a ``model``.
        number: Case id of a record or of facts; facts that were written before a step; 0 for a
            model.
        checkpoint: Facts in the model when it is scored; 0 outside sequences.
    """

    kind: Literal["record", "step", "facts", "model"]
    number: int
    checkpoint: int = 0

    def __str__(self) -> str:
        match self.kind:
            case "record":
                return f"case {self.number}"
            case "step":
                return f"the step after {counted(self.number, 'fact')}"
            case "facts":
                return f"scoring of case {self.number}{self._moment}"
            case "model":
                return f"scoring of the model{self._moment}"

    @property
    def _moment(self) -> str:
        return f" at {counted(self.checkpoint, 'fact')}" if self.checkpoint else ""


@dataclasses.dataclass(frozen=True)
class Care:
    """How to do a unit that killed workers: part by part, each announced first.

    Attributes:
        given_up: Parts that are not tried again, with the reason that their failed rows get.
    """

    given_up: Mapping[Part, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Job:
    """One unit of a cell's plan.

    Attributes:
        cell: Fingerprint of the cell.
        unit: The batch or group.
        written: What was written of a group before.
        stored: Checkpoints of a group with all their rows stored.
        care: How to do it if it killed workers; None for the normal, fast way.
    """

    cell: str
    unit: Batch
    written: Written = Written()
    stored: frozenset[int] = frozenset()
    care: Care | None = None

    def given_up(self, part: Part) -> str | None:
        """Why a part is not tried again; None if it is tried."""
        return None if self.care is None else self.care.given_up.get(part)


# ---------------------------------------------------------------- answers


@dataclasses.dataclass(frozen=True)
class Begun:
    """A worker begins with the job; the first answer of every job."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Results, to be stored all at once.

    Attributes:
        rows: Rows of records.
        models: Rows of the models that they were written into.
        ended: Whether these are the records' last rows; otherwise a sequence continues.
    """

    rows: Sequence[Row]
    models: Sequence[ModelRow] = ()
    ended: bool = True


@dataclasses.dataclass(frozen=True)
class Saved:
    """The state of a group, from which another worker or a later run can resume."""

    written: Written


@dataclasses.dataclass(frozen=True)
class Advanced:
    """Steps of the unit that are done, counted from its start."""

    steps: int


@dataclasses.dataclass(frozen=True)
class WeightsChanged:
    """The editor changed the model's own weights: the run must stop. The last answer of a job."""


@dataclasses.dataclass(frozen=True)
class Trying:
    """The next part of a unit that is done with care."""

    part: Part


Answer: TypeAlias = Begun | Rows | Saved | Advanced | WeightsChanged | Trying
