"""Progress on standard error: a bar on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

__all__ = ["Progress", "counting"]

_LINE_SECONDS = 15.0


class Progress:
    """Counts units of work.

    Args:
        total: All of them; None if that is unknown.
        done: Those that were stored before.
        quiet: Show nothing.
        stream: Where to write; standard error by default.
        unit: What is counted.
    """

    def __init__(
        self,
        total: int | None,
        done: int = 0,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        unit: str = "edit",
    ) -> None:
        self._stream = stream or sys.stderr
        self._total, self._done, self._first = total, done, done
        self._started = self._last_line = time.monotonic()
        self._quiet = quiet or total == done
        self._unit = unit
        self._bar = None
        if not self._quiet and self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=done,
                unit=unit,
                unit_scale=unit == "token",
                file=self._stream,
                dynamic_ncols=True,
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def label(self, text: str) -> None:
        """Show what is being done now."""
        if self._bar is not None:
            self._bar.set_description(text)
        elif not self._quiet:
            self._write(text)

    def advance(self, units: int) -> None:
        """Count units that are done."""
        self._done += units
        if self._bar is not None:
            self._bar.update(units)
        elif not self._quiet and time.monotonic() - self._last_line > _LINE_SECONDS:
            pace = (time.monotonic() - self._started) / max(self._done - self._first, 1)
            if self._total is None:
                self._write(f"{1 / pace:,.0f} a second")
            else:
                self._write(f"{pace * (self._total - self._done):.0f} s left")

    def _write(self, text: str) -> None:
        self._last_line = time.monotonic()
        total = "" if self._total is None else f"/{self._total}"
        self._stream.write(f"{self._done}{total} {self._unit}s: {text}\n")
        self._stream.flush()


@contextlib.contextmanager
def counting(
    label: str, total: int | None, *, quiet: bool = False, unit: str = "fact"
) -> Iterator[Callable[[int], None]]:
    """Progress of work that reports how much is done; its first report is what was stored before.

    Args:
        label: What is being done.
        total: Units of work; None if that is unknown.
        quiet: Show nothing.
        unit: What is counted.
    """
    with contextlib.ExitStack() as stack:
        progress: Progress | None = None
        before = 0

        def report(done: int) -> None:
            nonlocal progress, before
            if progress is None:
                progress = stack.enter_context(Progress(total, done, quiet=quiet, unit=unit))
                progress.label(label)
            else:
                progress.advance(done - before)
            before = done

        yield report
