"""The sum Σ k kᵀ over a corpus, computed by the workers of a pool, in an order that is fixed.

    texts → rows of tokens → batches of at most 4,096 tokens → parts of some batches → the sum

A worker sums the batches of a part in order, and the parts are added in order here. Both depend on
the texts alone, so the result has the same bits on any number of workers, in this process, and
after an interruption. The first 16 parts are single batches; then eight parts double the number of
batches, up to 64 batches a part. So even a short corpus occupies several workers, the sum can be
observed whenever it has doubled, and a long corpus sends few matrices to the driver.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from editkit.covariance.bench import Answer, Job, Read, Row, Rows, Summed, SumPart
from editkit.covariance.gram import Gram, Sum
from editkit.errors import ClusterError
from editkit.progress import Counter, counting
from editkit.storage.cache import read_safetensors, write_atomically, writing_to_cache
from editkit.storage.digests import ascii_json, digest_of_tensors, first_difference
from editkit.workers.pool import MOST_LOSSES, Crew, Done, Event, Lost

__all__ = [
    "ROW_TOKENS",
    "Progress",
    "SumFile",
    "Summers",
    "Watcher",
    "accumulate",
    "batched",
    "parted",
]

TOKENS_PER_PASS = 4096
ROW_TOKENS = 2048
"""Default for the most tokens of a text: the whole context of GPT-2 (1,024) and GPT-J, but not all
of a context of 131,072, which would take much memory."""
Summers: TypeAlias = Crew[Job, Answer]
"""Workers with a bench of :mod:`editkit.covariance.bench`."""
Progress = Callable[[int], None]
"""Called with the number of tokens in the sum."""

_LARGEST_PART = 64  # batches
_PARTS_PER_DOUBLING = 8
_TEXTS_PER_READ = 256
_log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Observes a growing sum."""

    @property
    def identity(self) -> str:
        """Its settings; a watcher does not restore the state of one with other settings."""

    def is_due(self, count: int) -> bool:
        """Whether it wants to look at the sum over ``count`` tokens."""

    def look(self, matrix: Tensor, count: int) -> None:
        """Observe C, (D, D) float32, over ``count`` tokens."""

    def state(self) -> dict[str, Tensor]:
        """Its observations, saved with the sum."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Resume from a result of :meth:`state`."""


@dataclasses.dataclass(frozen=True)
class SumFile:
    """Where and how often an unfinished sum is saved.

    Attributes:
        path: The file.
        seconds: Seconds between two writes.
        of: What the sum depends on, as plain data; the file of another sum is not used.
    """

    path: Path
    seconds: float = 60.0
    of: Mapping[str, Any] | None = None


def accumulate(
    crew: Summers,
    paths: Sequence[str],
    texts: Iterable[str],
    *,
    tokens: int | None = None,
    row_tokens: int = ROW_TOKENS,
    files: Mapping[str, SumFile] | None = None,
    watchers: Mapping[str, Watcher] | None = None,
    progress: Progress | None = None,
    is_local: bool = True,
) -> dict[str, Sum]:
    """The sums Σ k kᵀ of modules' inputs, and their number of tokens, in one pass over the texts.

    Args:
        crew: The workers; their forward passes end once all modules have run.
        paths: Dotted paths of the modules.
        texts: Texts, each a row of its own.
        tokens: Stop after this number of tokens; None: use all texts.
        row_tokens: Most tokens of a text; the rest is cut off, as is what exceeds the context.
        files: Where the unfinished sums of paths are saved and resumed from. If some sums are
            ahead, they wait for the others.
        watchers: Observe the sums of paths after every part.
        progress: Called after every batch with the number of tokens in the shortest sum.
        is_local: Whether the worker is this process. Then a file has the unfinished part, too.

    Returns:
        The sum of each path; empty if there is no text.

    Raises:
        ClusterError: Three workers died over the same texts, or a worker has another model.
    """
    files, watchers = files or {}, watchers or {}
    growing = {
        path: _read(files[path], watchers.get(path)) if path in files else _Growing()
        for path in paths
    }
    several = f"second moments of {len(paths)} modules"
    title = several if len(paths) > 1 else f"second moment of {paths[0]}"
    driver = _Driver(crew, growing, files, watchers, progress, is_local=is_local)
    with counting(title, tokens, unit="token", done=driver.shortest()) as counter:
        driver.run(_limited(driver.rows(texts, row_tokens), tokens), counter)
    return {path: each.total for path, each in growing.items() if each.total.added}


# ---------------------------------------------------------------- the fixed order


def _limited(rows: Iterable[Row], tokens: int | None) -> Iterator[Row]:
    """Rows with at most ``tokens`` tokens in total; the last one is cut."""
    if tokens is None:
        yield from rows
        return
    left = tokens
    for row in rows:
        yield row[:left]
        left -= min(left, len(row))
        if not left:
            return


def batched(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in order, in batches of at most :data:`TOKENS_PER_PASS` tokens with padding."""
    batch: list[Row] = []
    for row in rows:
        width = max(len(row), *(len(each) for each in batch), 1)
        if batch and width * (len(batch) + 1) > TOKENS_PER_PASS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def parted(batches: Iterable[list[Row]]) -> Iterator[list[list[Row]]]:
    """Batches in order, in parts of 1 to 64 batches; eight parts or more double their number."""
    source, first = iter(batches), 0
    while part := list(itertools.islice(source, _size_of_part(first))):
        yield part
        first += len(part)


def _size_of_part(first: int) -> int:
    """The number of batches in the part that starts with batch ``first``."""
    doublings = (first // _PARTS_PER_DOUBLING).bit_length() - 1
    return min(_LARGEST_PART, 1 << max(0, doublings))


# ---------------------------------------------------------------- the driver


@dataclasses.dataclass
class _Growing:
    """A sum over parts, and what is summed of the next part.

    Attributes:
        total: The sum over the first parts; ``total.added`` is their number.
        part: The sum so far of the next part, if it is known here.
        whole: False while a part is being added and observed.
    """

    total: Sum = dataclasses.field(default_factory=Sum)
    part: Sum | None = None
    whole: bool = True

    def add(self, part: Sum, watcher: Watcher | None) -> None:
        """Add the next part, and let a watcher look."""
        self.whole, self.part = False, None
        self.total.add(part)
        count = self.total.count
        if watcher and self.total.gram and watcher.is_due(count):
            watcher.look(self.total.gram.over(count), count)
        self.whole = True


class _Driver:
    """Hands out texts and parts, and adds up what comes back."""

    def __init__(
        self,
        crew: Summers,
        growing: Mapping[str, _Growing],
        files: Mapping[str, SumFile],
        watchers: Mapping[str, Watcher],
        progress: Progress | None,
        *,
        is_local: bool,
    ) -> None:
        self._crew, self._growing, self._files = crew, growing, files
        self._watchers, self._progress, self._is_local = watchers, progress, is_local
        self._next = min(each.total.added for each in growing.values())  # part to be added
        self._running: dict[int, Mapping[str, int]] = {}  # by part: keys so far, by path
        for path, each in growing.items():
            if each.part is not None:
                number = each.total.added
                self._running[number] = {**self._running.get(number, {}), path: each.part.count}
        self._finished: dict[int, Mapping[str, Sum]] = {}  # parts that wait for earlier ones
        self._read: dict[int, Sequence[Row]] = {}  # rows by the number of the read
        self._jobs: dict[int, tuple[int, Job, int]] = {}  # number, job, workers that it cost
        self._events: Iterator[Event[Answer]] = iter(())
        self._workers: set[str] = set()
        self._seconds = min((file.seconds for file in files.values()), default=math.inf)
        self._written = time.monotonic()

    def run(self, rows: Iterable[Row], counter: Counter) -> None:
        """Sum all rows."""
        self._counter = counter
        try:
            for number, batches in enumerate(parted(batched(rows))):
                sums = {
                    path: (each.part if number == each.total.added else None) or Sum()
                    for path, each in self._growing.items()
                    if each.total.added <= number
                }
                if sums:
                    self._running.setdefault(number, {})
                    self._submit(number, SumPart(number, batches, sums, self._is_local))
                while len(self._running) >= 2 * self._crew.workers:
                    self._pump()
            while self._jobs:
                self._pump()
        except KeyboardInterrupt:
            self._write()
            raise

    def rows(self, texts: Iterable[str], row_tokens: int) -> Iterator[Row]:
        """Texts as rows of tokens, in order; workers read ahead."""
        source, waiting = iter(texts), deque[int]()
        for number in itertools.count():
            while len(waiting) < self._crew.workers:
                some = list(itertools.islice(source, _TEXTS_PER_READ))
                if not some:
                    break
                waiting.append(number + len(waiting))
                self._submit(waiting[-1], Read(some, row_tokens))
            if not waiting:
                return
            wanted = waiting.popleft()
            while wanted not in self._read:
                self._pump()
            yield from self._read.pop(wanted)

    def shortest(self) -> int:
        """Tokens in the shortest sum, unfinished parts included."""
        return min(
            each.total.count + sum(counts.get(path, 0) for counts in self._running.values())
            for path, each in self._growing.items()
        )

    # ------------------------------------------------------------ events

    def _submit(self, number: int, job: Job, losses: int = 0) -> None:
        self._jobs[self._crew.submit(job)] = number, job, losses

    def _pump(self) -> None:
        """Wait for an event."""
        event = next(self._events, None)
        if event is None:
            self._events = self._crew.events()
            return
        if isinstance(event, Done):
            del self._jobs[event.job]
        elif isinstance(event, Lost):
            self._retry(event)
        else:
            self._check(event.worker)
            if isinstance(event.answer, Rows):
                self._read[self._jobs[event.job][0]] = event.answer.rows
            elif isinstance(event.answer, Summed):
                self._grow(event.answer)

    def _grow(self, answer: Summed) -> None:
        self._running[answer.part] = answer.counts
        if answer.is_done and answer.sums:
            self._finished[answer.part] = answer.sums
            while self._next in self._finished:
                for path, part in self._finished.pop(self._next).items():
                    self._growing[path].add(part, self._watchers.get(path))
                del self._running[self._next]
                self._next += 1
        elif answer.sums:
            for path, part in answer.sums.items():
                self._growing[path].part = part
        self._counter.to(self.shortest())
        if self._progress:
            self._progress(self.shortest())
        if time.monotonic() - self._written >= self._seconds:
            self._write()
            self._written = time.monotonic()

    def _retry(self, lost: Lost) -> None:
        number, job, losses = self._jobs.pop(lost.job)
        if losses + 1 == MOST_LOSSES:
            raise ClusterError(
                f"{MOST_LOSSES} workers died over the same texts: {lost.reason}.",
                hint="Use fewer workers for each machine, or cut long texts (--row-tokens).",
            )
        self._submit(number, job, losses + 1)

    def _check(self, worker: str) -> None:
        """Refuse a worker whose model is not that of the first one.

        Raises:
            ClusterError: It has another model.
        """
        if self._is_local or worker in self._workers:
            return
        own, first = self._crew.about_worker(worker), self._crew.about
        if difference := first_difference(dict(own), dict(first)):
            raise ClusterError(
                f"worker {worker} has another model than the first worker: {difference}.",
                hint="Give all machines the same files.",
            )
        self._workers.add(worker)

    def _write(self) -> None:
        for path, file in self._files.items():
            _write(file, self._growing[path], self._watchers.get(path))


# ---------------------------------------------------------------- files


def _write(file: SumFile, growing: _Growing, watcher: Watcher | None) -> None:
    total, part = growing.total, growing.part or Sum()
    if not (growing.whole and part.whole) or not (total.added or part.added):
        return
    facts: dict[str, Any] = {"of": file.of}
    tensors = {}
    for name, own in (("total", total), ("part", part)):
        facts[name] = {"count": own.count, "added": own.added}
        blocks = own.gram.cpu().blocks if own.gram else ()
        tensors.update({f"{name}/{number}": block for number, block in enumerate(blocks)})
    if watcher:
        facts["watcher"] = watcher.identity
        tensors.update({f"watcher/{name}": t for name, t in watcher.state().items()})
    facts["digest"] = digest_of_tensors(tensors, ascii_json(facts))
    with writing_to_cache():
        write_atomically(file.path, save(tensors, metadata={"sum": json.dumps(facts)}))


def _read(file: SumFile, watcher: Watcher | None) -> _Growing:
    """The saved sum; an empty sum if the file is missing, damaged, or of another sum."""
    path = file.path
    try:
        metadata, tensors = read_safetensors(path)
        facts = json.loads(metadata["sum"])
        digest = facts.pop("digest")
        if digest != digest_of_tensors(tensors, ascii_json(facts)):
            raise ValueError("its content does not match its digest")
        if "total" not in facts:
            _log.warning("%s is from an earlier version; the sum starts over", path)
            return _Growing()
        total, part = (_sum_in(tensors, facts, name) for name in ("total", "part"))
    except FileNotFoundError:
        return _Growing()
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        _log.warning("%s is damaged (%s); the sum starts over", path, error)
        return _Growing()
    if (why := first_difference(facts.get("of"), file.of)) is not None:
        _log.warning("%s belongs to something else (%s); the sum starts over", path, why)
        return _Growing()
    if watcher and facts.get("watcher") == watcher.identity:
        watcher.restore(
            {n.removeprefix("watcher/"): t for n, t in tensors.items() if n.startswith("watcher/")}
        )
    return _Growing(total, part if part.added else None)


def _sum_in(tensors: Mapping[str, Tensor], facts: Mapping[str, Any], name: str) -> Sum:
    blocks: list[Tensor] = []
    while (key := f"{name}/{len(blocks)}") in tensors:
        blocks.append(tensors[key])
    gram = Gram(blocks) if blocks else None
    return Sum(gram, int(facts[name]["count"]), int(facts[name]["added"]))
