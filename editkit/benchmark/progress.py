"""How far a run is, on stderr: a bar on a terminal, sparse lines elsewhere, or nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

__all__ = ["Progress", "counting"]

_LINE_SECONDS = 15.0


class Progress:
    """Counts records of all cells, or other units of work.

    Args:
        total: All records of all cells.
        done: Those that were stored before.
        quiet: Show nothing.
        stream: Where to; stderr by default.
        unit: What is counted.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        unit: str = "edit",
    ) -> None:
        self._stream = stream or sys.stderr
        self._total, self._done, self._first = total, done, done
        self._started = self._spoken = time.monotonic()
        self._quiet = quiet or total == done
        self._unit = unit
        self._bar = None
        if not self._quiet and self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=done, unit=unit, file=self._stream, dynamic_ncols=True
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def label(self, text: str) -> None:
        """Say what is being done now."""
        if self._bar is not None:
            self._bar.set_description(text)
        elif not self._quiet:
            self._say(text)

    def advance(self, records: int) -> None:
        """Some records are stored."""
        self._done += records
        if self._bar is not None:
            self._bar.update(records)
        elif not self._quiet and time.monotonic() - self._spoken > _LINE_SECONDS:
            self._say(f"{self._left():.0f} s left")

    def _left(self) -> float:
        pace = (time.monotonic() - self._started) / max(self._done - self._first, 1)
        return pace * (self._total - self._done)

    def _say(self, text: str) -> None:
        self._spoken = time.monotonic()
        self._stream.write(f"{self._done}/{self._total} {self._unit}s: {text}\n")
        self._stream.flush()


@contextlib.contextmanager
def counting(
    what: str, total: int, *, quiet: bool = False, unit: str = "fact"
) -> Iterator[Callable[[int], None]]:
    """Progress of work that reports how much of it is done, what is already stored first.

    Args:
        what: What is being done.
        total: Units of work.
        quiet: Show nothing.
        unit: What is counted.
    """
    with contextlib.ExitStack() as stack:
        shown: list[tuple[Progress, int]] = []

        def report(done: int) -> None:
            if not shown:
                progress = stack.enter_context(Progress(total, done, quiet=quiet, unit=unit))
                progress.label(what)
                shown.append((progress, done))
            progress, before = shown[0]
            progress.advance(done - before)
            shown[0] = progress, done

        yield report
