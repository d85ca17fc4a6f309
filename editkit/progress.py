"""Progress of long work: whoever does it counts, and whoever wants to know listens.

An editor, a metric or any other function counts its units of work::

    with counting("second moment of layer 3", total=100_000, unit="token") as advance:
        advance(512)

This does nothing unless somebody listens. Commands listen and show a bar on a terminal, or a line
now and then; in a script or a notebook, ``with show_progress():`` does the same. The count of one
``with`` inside another is shown below the outermost one.

**Threads.** A listener is set for the current thread (a context variable): work that another thread
starts is silent, unless it runs in a copy of this context. A counter may be advanced from any
thread. The display refreshes itself from a thread of its own, so that it also shows work that
rarely advances.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol, TextIO

__all__ = ["Counter", "Listener", "counting", "listening", "show_progress"]

_TICK = 0.5
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
_FEW = 10  # units of such work differ too much to predict the time that is left
_SECONDS_BEFORE_INNER = 1.0
"""Inner work that is shorter than this is not shown."""
_SECONDS_BETWEEN_LINES = 15.0


class Listener(Protocol):
    """Is called about every piece of work, in the thread that does it."""

    def started(self, counter: Counter) -> None:
        """Work starts; it may be inside other work that has not ended."""

    def changed(self, counter: Counter) -> None:
        """Its count or its label changed."""

    def ended(self, counter: Counter) -> None:
        """Work ended, with or without an exception."""


class Counter:
    """How much of some work is done. Call it with the number of units that are finished.

    Attributes:
        label: What is done.
        total: Units of work; None if that is unknown.
        unit: What is counted, in the singular.
        done: Units that are done.
        first: Units that were done before.
        started: When the work started, by ``time.monotonic``.
    """

    def __init__(
        self, label: str, total: int | None, unit: str, done: int, listener: Listener | None
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self.first = done
        self.started = time.monotonic()
        self._measured_from = self.started, done
        self._enough = 1  # units before there is an estimate
        self._listener = listener
        self._lock = threading.Lock()

    def __call__(self, units: int = 1) -> None:
        """Count units that are done.

        Raises:
            ValueError: The number is negative.
        """
        if units < 0:
            raise ValueError(f"{self.label}: cannot advance by {units} {self.unit}s")
        if self._listener is not None and units:
            with self._lock:
                self.done += units
            self._listener.changed(self)

    def to(self, done: int) -> None:
        """Set the number of units that are done; a number below the current one is ignored."""
        self(max(0, done - self.done))

    def relabel(self, label: str) -> None:
        """Change what is being done."""
        self.label = label
        if self._listener is not None:
            self._listener.changed(self)

    def estimate_from_here(self, enough: int = 1) -> None:
        """Estimate the time that is left from what is done from now on: so far, work was slower.

        Args:
            enough: How many more units must be done before there is an estimate.
        """
        self._measured_from = time.monotonic(), self.done
        self._enough = enough

    @property
    def estimate(self) -> str:
        """``12 s left``, or without a total ``512 a second``; empty if nothing is known yet."""
        start, done_before = self._measured_from
        seconds, moved = time.monotonic() - start, self.done - done_before
        if moved < self._enough or seconds < _SECONDS_BEFORE_INNER:
            return ""
        if self.total is None:
            return f"{moved / seconds:,.0f} a second"
        if self.total < _FEW:
            return ""
        return f"{seconds / moved * max(0, self.total - self.done):.0f} s left"

    def __str__(self) -> str:
        """As in ``512/2,048 tokens: second moment of layer 3, 12 s left``."""
        of = "" if self.total is None else f"/{self.total:,}"
        plural = "" if (self.done if self.total is None else self.total) == 1 else "s"
        text = f"{self.done:,}{of} {self.unit}{plural}: {self.label}"
        return ", ".join(filter(None, [text, self.estimate]))


_LISTENER: contextvars.ContextVar[Listener | None] = contextvars.ContextVar(
    "editkit_progress", default=None
)


@contextlib.contextmanager
def counting(
    label: str, total: int | None = None, *, unit: str = "step", done: int = 0
) -> Iterator[Counter]:
    """Count units of work for whoever listens; cheap if nobody does.

    Args:
        label: What is done: ``second moment of layer 3``.
        total: Units of work; None if that is unknown.
        unit: What is counted, in the singular.
        done: Units that were done before, by an earlier run.
    """
    listener = _LISTENER.get()
    counter = Counter(label, total, unit, done, listener)
    if listener is None:
        yield counter
        return
    listener.started(counter)
    try:
        yield counter
    finally:
        listener.ended(counter)


@contextlib.contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Inside, this listener is called about all work of this thread; None: nobody is."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextlib.contextmanager
def show_progress(*, quiet: bool = False, stream: TextIO | None = None) -> Iterator[None]:
    """Inside, progress is shown: bars on a terminal, a line now and then elsewhere.

    A listener that is set already stays the only one.

    Args:
        quiet: Show nothing, and call no listener.
        stream: Where to write; standard error by default.
    """
    if quiet:
        with listening(None):
            yield
    elif _LISTENER.get() is not None:
        yield
    else:
        display = _Display(stream or sys.stderr)
        try:
            with listening(display):
                yield
        finally:
            display.close()


class _Display:
    """Shows the outermost and the innermost work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._work: list[Counter] = []  # outermost first
        self._bars: dict[Counter, Any] = {}
        self._labels: set[str] = set()  # each is shown early once
        self._last_line = time.monotonic()
        self._last_text = ""
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._ticker: threading.Thread | None = None

    def started(self, counter: Counter) -> None:
        with self._lock:
            if not self._work:
                if counter.total == counter.done:
                    return  # nothing is left to do
                self._work.append(counter)
                self._show()
            else:
                self._work.append(counter)
            if self._ticker is None:
                self._ticker = threading.Thread(target=self._tick, daemon=True)
                self._ticker.start()

    def changed(self, counter: Counter) -> None:
        if counter.label not in self._labels:
            with self._lock:
                if counter in self._work[:1]:
                    self._show()

    def ended(self, counter: Counter) -> None:
        with self._lock:
            if counter in self._work:
                self._work.remove(counter)
                if bar := self._bars.pop(counter, None):
                    self._update(bar, counter)
                    bar.close()

    def close(self) -> None:
        """Stop refreshing."""
        self._closed.set()
        if self._ticker is not None:
            self._ticker.join()

    def _tick(self) -> None:
        while not self._closed.wait(_TICK):
            with self._lock:
                self._show()

    def _show(self) -> None:
        """Show the work as it is now, if it is due; the caller holds the lock."""
        if not self._work:
            return
        outer, inner = self._work[0], self._work[-1]
        old_enough = time.monotonic() - inner.started >= _SECONDS_BEFORE_INNER
        shown = [outer, inner] if inner is not outer and old_enough else [outer]
        try:
            self._show_bars(shown) if self._stream.isatty() else self._show_line(shown)
        except (OSError, ValueError):  # the stream is closed: work continues without a display
            self._work.clear()
            self._closed.set()

    def _show_bars(self, shown: list[Counter]) -> None:
        from tqdm import tqdm

        for hidden in [counter for counter in self._bars if counter not in shown]:
            self._bars.pop(hidden).close()
        for position, counter in enumerate(shown):
            if counter not in self._bars:
                self._labels.add(counter.label)
                self._bars[counter] = tqdm(
                    total=counter.total,
                    initial=counter.done,
                    desc=counter.label,
                    unit=counter.unit,
                    unit_scale=counter.unit == "token",
                    file=self._stream,
                    dynamic_ncols=True,
                    position=position,
                    leave=position == 0,
                    bar_format=None if counter.total is None else _BAR,
                )
            self._update(self._bars[counter], counter)

    def _update(self, bar: Any, counter: Counter) -> None:
        self._labels.add(counter.label)
        bar.set_description(counter.label, refresh=False)
        if counter.total is not None:  # tqdm's own estimate counts from the start
            bar.set_postfix_str(counter.estimate, refresh=False)
        bar.n = counter.done
        bar.refresh()

    def _show_line(self, shown: list[Counter]) -> None:
        new = [counter for counter in shown if counter.label not in self._labels]
        waited = time.monotonic() - self._last_line
        if new or waited >= _SECONDS_BETWEEN_LINES:
            self._labels |= {counter.label for counter in new}
            self._last_line = time.monotonic()
            text = "; ".join(map(str, shown))
            if text != self._last_text:
                self._last_text = text
                self._stream.write(f"{text}\n")
                self._stream.flush()
