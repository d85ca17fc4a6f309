"""Calling code of a plugin so that the process is afterwards what it was before.

:func:`call_guarded` is for hooks that only look on. Inside, standard output is standard error;
afterwards streams, working folder, environment, random numbers, settings of torch, logging,
warnings and signal handlers are as they were. An interruption by the user passes, whatever the
plugin made of it; everything else that it raises, SystemExit and a KeyboardInterrupt of its own
included, is its own failure. What is beyond this: a plugin that patches modules, or that ends the
process.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import override

__all__ = ["Raised", "call_guarded"]

_T = TypeVar("_T")


class Raised(Exception):
    """Code of a plugin raised something.

    Attributes:
        error: What it raised, of any class.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(type(error).__name__)
        self.error = error


def call_guarded(work: Callable[[], _T]) -> _T:
    """What some code of a plugin returns; the process is left as it was.

    Args:
        work: The code.

    Raises:
        Raised: It raised anything at all.
        KeyboardInterrupt: The user interrupted meanwhile (or whatever else a signal's handler
            raises), even where the code has caught that.
    """
    came: list[BaseException] = []
    raised: BaseException | None = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(_signals_noticed(came))
        stack.enter_context(_state_kept())
        stack.enter_context(_output_to_stderr())
        try:
            result = work()
        except BaseException as error:
            raised = error
    if came:
        raise came[0] from None
    if raised is not None:
        raise Raised(raised) from raised
    return result


# ---------------------------------------------------------------- signals


@contextlib.contextmanager
def _signals_noticed(came: list[BaseException]) -> Iterator[None]:
    """Inside, what handlers of signals raise is kept; afterwards handlers and timers are back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def noticing(handler: Callable[..., Any]) -> Callable[..., Any]:
        def handle(*arguments: Any) -> Any:
            try:
                return handler(*arguments)
            except BaseException as error:
                came.append(error)
                raise

        return handle

    earlier = {number: signal.getsignal(number) for number in signal.valid_signals()}
    timer = _timer()
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(handler := earlier[number]):
            signal.signal(number, noticing(handler))
    try:
        yield
    finally:
        for number, handler in earlier.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        if timer == _NO_TIMER != _timer():
            signal.setitimer(signal.ITIMER_REAL, 0)


_NO_TIMER = (0.0, 0.0)


def _timer() -> tuple[float, float]:
    """Seconds until an alarm, and between alarms; platforms without alarms have none."""
    return signal.getitimer(signal.ITIMER_REAL) if hasattr(signal, "getitimer") else _NO_TIMER


# ---------------------------------------------------------------- output


class _Borrowed(io.TextIOBase):
    """Writes to a stream and cannot close it; to nowhere, where there is none."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @override
    def write(self, text: str) -> int:
        if self._stream is not None:
            self._stream.write(text)
        return len(text)

    @override
    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()

    @override
    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return int(self._stream.fileno())

    @override
    def isatty(self) -> bool:
        return self._stream is not None and bool(self._stream.isatty())

    @override
    def writable(self) -> bool:
        return True

    @override
    def close(self) -> None:
        """Nothing: the stream is borrowed."""

    @property
    def buffer(self) -> Any:
        """The bytes of the stream, where it has such."""
        return self._stream.buffer


@contextlib.contextmanager
def _output_to_stderr() -> Iterator[None]:
    """Inside, whatever is written to standard output arrives at standard error."""
    out, err = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        stack.enter_context(_descriptor_to_stderr([out, sys.__stdout__]))
        sys.stdout, sys.stderr = _Borrowed(err), _Borrowed(err)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = out, err


@contextlib.contextmanager
def _descriptor_to_stderr(streams: Sequence[Any]) -> Iterator[None]:
    """The same for the file descriptor: child processes, C code and what keeps ``__stdout__``."""
    saved = None
    # Where the process was started without a standard output, 1 may be any file: the store, say.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if (sys.__stdout__.fileno(), sys.__stderr__.fileno()) == (1, 2):  # type: ignore[union-attr]
            _flush(streams)
            saved = os.dup(1)
            os.dup2(2, 1)
    try:
        yield
    finally:
        if saved is not None:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                _flush(streams)
            os.dup2(saved, 1)
            os.close(saved)


def _flush(streams: Sequence[Any]) -> None:
    for stream in streams:
        if stream is not None:
            stream.flush()


# ---------------------------------------------------------------- the rest of the process


@contextlib.contextmanager
def _state_kept() -> Iterator[None]:
    """Afterwards the process is as it was, as far as plain settings go."""
    with contextlib.ExitStack() as stack:
        for restore in (
            _folder(),
            _environment(),
            _interpreter(),
            _random(),
            *([_torch(torch)] if (torch := sys.modules.get("torch")) else []),
            _warnings(),
            _logging(),
        ):
            stack.callback(_quietly, restore)
        yield


Restore = Callable[[], object]


def _quietly(restore: Restore) -> None:
    with contextlib.suppress(Exception):
        restore()


def _folder() -> Restore:
    try:
        before = Path.cwd()
    except OSError:  # it was deleted
        return lambda: None
    return lambda: os.chdir(before)


def _environment() -> Restore:
    before = dict(os.environ)

    def restore() -> None:
        if before != os.environ:
            for name in set(os.environ) - set(before):
                del os.environ[name]
            os.environ.update(before)

    return restore


def _interpreter() -> Restore:
    limit, collecting = sys.getrecursionlimit(), gc.isenabled()
    tracing, profiling = sys.gettrace(), sys.getprofile()

    def restore() -> None:
        if sys.gettrace() is not tracing:
            sys.settrace(tracing)
        if sys.getprofile() is not profiling:
            sys.setprofile(profiling)
        if sys.getrecursionlimit() != limit:
            sys.setrecursionlimit(limit)
        if gc.isenabled() != collecting:
            (gc.enable if collecting else gc.disable)()

    return restore


def _random() -> Restore:
    state = random.getstate()
    numpy = sys.modules.get("numpy")
    of_numpy = numpy.random.get_state() if numpy else None

    def restore() -> None:
        random.setstate(state)
        if numpy:
            numpy.random.set_state(of_numpy)

    return restore


def _torch(torch: Any) -> Restore:
    state = torch.get_rng_state()
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    device = torch.get_default_device()
    settings = (
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    )
    before = [read() for read, _ in settings]

    def restore() -> None:
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        for (read, write), value in zip(settings, before, strict=True):
            if read() != value:
                _quietly(functools.partial(write, value))
        torch.set_rng_state(state)
        if on_devices is not None:
            torch.cuda.set_rng_state_all(on_devices)

    return restore


def _warnings() -> Restore:
    filters, show = list(warnings.filters), warnings.showwarning

    def restore() -> None:
        warnings.showwarning = show
        if list(warnings.filters) != filters:
            warnings.resetwarnings()  # which makes caches of the filters invalid, too
            warnings.filters[:] = filters  # type: ignore[index]

    return restore


def _logging() -> Restore:
    """Of the root logger and ours: a plugin that configures logging may have disabled all."""
    manager = logging.root.manager
    disabled = manager.disable
    ours = [
        logger
        for name, logger in manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == "editkit"
    ]
    before = [
        (each, each.level, each.disabled, each.propagate, list(each.handlers), list(each.filters))
        for each in (logging.root, *ours)
    ]

    def restore() -> None:
        logging.disable(disabled)
        for logger, level, off, propagate, handlers, filters in before:
            if logger.level != level:
                logger.setLevel(level)
            logger.disabled, logger.propagate = off, propagate
            logger.handlers[:], logger.filters[:] = handlers, filters

    return restore
