"""The state of a group of facts while it is written into one model: files in the output folder.

``sequences/<cell>-<group>/`` holds

- ``delta-<n>.safetensors``: everything that was written so far, merged, after n facts;
- ``facts.jsonl``: how each fact went, one line per fact, only ever appended to;
- ``state.safetensors``: the editor's own state, the number of facts, and digests of the others.

The state is written last and names the others, so a killed run finds a consistent set. The cost of
a step does not grow with the number of facts. When the group is finished, only its last delta
stays: it can be loaded with ``load_delta``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from editkit.benchmark.jobs import Written
from editkit.benchmark.repeated_edits import edits_to_write
from editkit.data_types import EditRequest
from editkit.errors import CacheError, ConfigError, DeltaError, first_line
from editkit.storage.cache import write_atomically
from editkit.storage.checkpoints import read_checkpoint, write_checkpoint
from editkit.storage.digests import ascii_json
from editkit.storage.strict_json import parse_json

__all__ = ["SEQUENCES", "SequenceFiles"]

SEQUENCES = "sequences"
"""The folder of all sequences in an output folder."""

_STATE, _FACTS = "state.safetensors", "facts.jsonl"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Progress:
    """The content of the state file besides the editor's tensors."""

    facts: int
    delta: str
    lines: str


@dataclasses.dataclass(frozen=True)
class _Fact:
    """A line of ``facts.jsonl``."""

    notes: dict[str, Any]
    seconds: float
    error: str | None = None


class SequenceFiles:
    """The files of one group.

    Args:
        out: The output folder.
        fingerprint: The cell.
        group: The group.
    """

    def __init__(self, out: Path, fingerprint: str, group: int) -> None:
        self.folder = out / SEQUENCES / f"{fingerprint[:16]}-{group}"
        self._identity = {"cell": fingerprint, "group": group}
        self._lines = 0  # of facts.jsonl, in this process
        self._digest = hashlib.sha256()  # of these lines

    def save(self, written: Written) -> None:
        """Write everything that is new; a crash leaves this state or the previous one.

        Raises:
            DeltaError, CacheError: A file cannot be written.
        """
        from editkit.editing.delta_files import save_delta

        if written.delta is None:
            raise ValueError("nothing was written yet")
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._append(written)
        # The requests are in the plan: writing all of them at every step would cost more and more.
        save_delta(dataclasses.replace(written.delta, request=None), self._delta(written.facts))
        lines = self._digest.hexdigest()
        progress = _Progress(written.facts, written.delta.digest(), lines)
        tensors = {"state": dict(written.state)}
        write_checkpoint(self.folder / _STATE, self._identity, progress, tensors)
        self._keep_only(written.facts)

    def _append(self, written: Written) -> None:
        if not self._lines:
            (self.folder / _FACTS).unlink(missing_ok=True)  # of a state that is not resumed
        with open(self.folder / _FACTS, "ab") as stream:
            for place in range(self._lines, written.facts):
                error = written.errors.get(place)
                fact = _Fact(dict(written.notes[place]), written.seconds[place], error)
                line = f"{ascii_json(dataclasses.asdict(fact))}\n".encode()
                self._digest.update(line)
                stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        self._lines = written.facts

    def load(self, requests: Sequence[Sequence[EditRequest]]) -> Written | None:
        """What was written so far; None if there is nothing to resume from.

        Args:
            requests: The requests of each record of the whole group, in order.
        """
        from editkit.editing.delta_files import load_delta

        try:
            saved = read_checkpoint(
                self.folder / _STATE, self._identity, progress=_Progress, groups=("state",)
            )
            if saved is None:
                return None
            n = saved.progress.facts
            delta = load_delta(self._delta(n))
            if delta.digest() != saved.progress.delta:
                raise ConfigError(f"{self._delta(n)} belongs to another state.")
            facts = self._facts(n, saved.progress.lines)
        except (ConfigError, DeltaError) as error:
            _log.warning("%s The sequence starts over.", error.message)
            return None
        errors = {place: fact.error for place, fact in enumerate(facts) if fact.error is not None}
        good = edits_to_write(own for i, own in enumerate(requests[:n]) if i not in errors)
        return Written(
            facts=n,
            delta=dataclasses.replace(delta, request=good),
            state=saved.tensors["state"],
            notes=tuple(fact.notes for fact in facts),
            seconds=tuple(fact.seconds for fact in facts),
            errors=errors,
        )

    def _facts(self, n: int, digest: str) -> list[_Fact]:
        """The first n lines; a killed run may have left more, which are cut off."""
        path = self.folder / _FACTS
        try:
            lines = path.read_bytes().splitlines(keepends=True)[:n]
            own = hashlib.sha256(b"".join(lines))
            if own.hexdigest() != digest:
                raise ValueError("its lines do not match their digest")
            adapter = TypeAdapter(_Fact)
            facts = [adapter.validate_python(parse_json(line.decode())) for line in lines]
            write_atomically(path, b"".join(lines))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is damaged: {first_line(error)}.") from None
        self._lines, self._digest = n, own
        return facts

    def finish(self, written: Written) -> None:
        """Keep only the last delta, with all its requests."""
        from editkit.editing.delta_files import save_delta

        if written.delta is not None:
            save_delta(written.delta, self._delta(written.facts))
        (self.folder / _STATE).unlink(missing_ok=True)  # first: it names the others
        self._keep_only(written.facts, besides=())

    def tidy(self, requests: Sequence[Sequence[EditRequest]]) -> None:
        """Finish a group with all its rows, if the run that stored the last ones was killed then.

        Args:
            requests: As for :meth:`load`.
        """
        if not any((self.folder / name).exists() for name in (_STATE, _FACTS)):
            return
        written = self.load(requests)
        if written is not None and written.facts == len(requests):
            self.finish(written)
        else:  # finished already, or the rows come from another folder
            (self.folder / _STATE).unlink(missing_ok=True)
            self._keep_only(len(requests), besides=())

    def remove(self) -> None:
        """Remove everything."""
        self._lines, self._digest = 0, hashlib.sha256()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _delta(self, facts: int) -> Path:
        return self.folder / f"delta-{facts}.safetensors"

    def _keep_only(self, facts: int, besides: Sequence[str] = (_STATE, _FACTS)) -> None:
        """Remove earlier deltas, and unfinished files of killed runs."""
        kept = {self._delta(facts).name, *besides}
        for path in self.folder.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"the state of a sequence cannot be written in {folder}: {error}.",
            hint="Free some space or make the folder writable, then run the same command again. "
            "It resumes from the last step.",
        ) from error
