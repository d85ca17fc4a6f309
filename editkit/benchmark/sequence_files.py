"""The state of a group of facts while it is written into one model: two files in the output folder.

``sequences/<cell>-<group>/`` holds what was written so far as a delta, ``delta-<n>.safetensors``
after n facts, and the rest, ``state.safetensors``: the editor's own state, and how each fact went.
The state names its delta by digest and is written last, so a killed run finds one consistent pair.
When the group is finished, its last delta stays: it can be loaded with ``load_delta``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.errors import ConfigError, DeltaError
from editkit.interfaces import State
from editkit.storage.checkpoints import read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from editkit.editing.deltas import WeightDelta

__all__ = ["SEQUENCES", "SequenceFiles", "Written"]

SEQUENCES = "sequences"
"""The folder of all sequences in an output folder."""

_STATE = "state.safetensors"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written into a model so far.

    Attributes:
        facts: Number of facts, in order, failed ones included.
        delta: All of them merged, on the unedited model; None before the first one.
        state: What the editor passes to its next step.
        notes: The notes of each fact.
        seconds: Seconds per fact.
        errors: Why a fact failed, by its place from 0.
    """

    facts: int = 0
    delta: WeightDelta | None = None
    state: State = dataclasses.field(default_factory=dict)
    notes: Sequence[Mapping[str, Any]] = ()
    seconds: Sequence[float] = ()
    errors: Mapping[int, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Progress:
    """The part of :class:`Written` that is plain data."""

    facts: int
    digest: str
    notes: list[dict[str, Any]]
    seconds: list[float]
    errors: dict[str, str]


@dataclasses.dataclass(frozen=True)
class SequenceFiles:
    """The files of one group.

    Attributes:
        folder: Their folder.
        identity: What must be the same to resume: the cell and the group.
    """

    folder: Path
    identity: Mapping[str, Any]

    @classmethod
    def of(cls, out: Path, fingerprint: str, group: int) -> SequenceFiles:
        """The files of a group of a cell in an output folder."""
        folder = out / SEQUENCES / f"{fingerprint[:16]}-{group}"
        return cls(folder, {"cell": fingerprint, "group": group})

    def save(self, written: Written) -> None:
        """Write both files; a crash leaves these or the previous ones.

        Raises:
            DeltaError, CacheError: They cannot be written.
        """
        from editkit.editing.delta_files import save_delta

        if written.delta is None:
            raise ValueError("nothing was written yet")
        self.folder.mkdir(parents=True, exist_ok=True)
        save_delta(written.delta, self._delta(written.facts))
        progress = _Progress(
            facts=written.facts,
            digest=written.delta.digest(),
            notes=[dict(notes) for notes in written.notes],
            seconds=list(written.seconds),
            errors={str(place): reason for place, reason in written.errors.items()},
        )
        tensors = {"state": dict(written.state)}
        write_checkpoint(self.folder / _STATE, self.identity, progress, tensors)
        for path in self.folder.glob("delta-*.safetensors"):
            if path != self._delta(written.facts):
                path.unlink(missing_ok=True)

    def load(self) -> Written | None:
        """What was written so far; None if there is nothing to resume from."""
        from editkit.editing.delta_files import load_delta

        try:
            saved = read_checkpoint(
                self.folder / _STATE, self.identity, progress=_Progress, groups=("state",)
            )
            if saved is None:
                return None
            progress = saved.progress
            delta = load_delta(self._delta(progress.facts))
            if delta.digest() != progress.digest:
                raise ConfigError(f"{self._delta(progress.facts)} belongs to another state.")
        except (ConfigError, DeltaError) as error:
            _log.warning("%s The sequence starts over.", error.message)
            return None
        return Written(
            facts=progress.facts,
            delta=delta,
            state=saved.tensors["state"],
            notes=progress.notes,
            seconds=progress.seconds,
            errors={int(place): reason for place, reason in progress.errors.items()},
        )

    def finish(self) -> None:
        """Keep only the last delta."""
        (self.folder / _STATE).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()

    def _delta(self, facts: int) -> Path:
        return self.folder / f"delta-{facts}.safetensors"
