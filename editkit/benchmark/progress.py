"""Progress of long work on stderr: a bar on a terminal, occasional lines elsewhere, or nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

__all__ = ["Progress", "counting"]

_LINE_SECONDS = 15.0


class Progress:
    """Progress over a known number of units.

    Args:
        total: Number of units of work.
        done: How many of them are done already.
        quiet: Show nothing.
        stream: Output; stderr by default.
        unit: Name of a unit: ``edit``.
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
        self._started = self._written_at = time.monotonic()
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
        """Show the name of the current step."""
        if self._bar is not None:
            self._bar.set_description(text)
        elif not self._quiet:
            self._write(text)

    def advance(self, records: int) -> None:
        """Count units that are done."""
        self._done += records
        if self._bar is not None:
            self._bar.update(records)
        elif not self._quiet and time.monotonic() - self._written_at > _LINE_SECONDS:
            self._write(f"{self._left():.0f} s left")

    def _left(self) -> float:
        pace = (time.monotonic() - self._started) / max(self._done - self._first, 1)
        return pace * (self._total - self._done)

    def _write(self, text: str) -> None:
        self._written_at = time.monotonic()
        self._stream.write(f"{self._done}/{self._total} {self._unit}s: {text}\n")
        self._stream.flush()


@contextlib.contextmanager
def counting(
    what: str, total: int, *, quiet: bool = False, unit: str = "fact"
) -> Iterator[Callable[[int], None]]:
    """A function to report progress with; call it with the number of units done so far.

    The first call gives the units that were done before.

    Args:
        what: Name of the work.
        total: Number of units of work.
        quiet: Show nothing.
        unit: Name of a unit: ``fact``.
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
