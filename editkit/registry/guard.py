"""Running a plugin's code without letting it harm the process or other plugins.

Inside a :class:`Guard`

- whatever the code raises becomes a :class:`PluginFailure`, ``SystemExit`` and every other
  ``BaseException`` included. Only an interrupt from outside (Ctrl-C, SIGTERM) passes, even if the
  code swallows it. A ``KeyboardInterrupt`` that the code raises itself is a failure like any other;
- what it writes to standard output goes to standard error, so that ``--json`` prints one document;
- the settings in :data:`_STATE` are restored afterwards, and :attr:`Guard.changes` lists them.

:func:`call_guarded` is for hooks that only observe: it also restores what importing a plugin may
change for good reasons, such as environment variables. A plugin that patches modules or ends the
process is out of reach.
"""

from __future__ import annotations

import contextlib
import gc
import locale
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple, TypeVar

from typing_extensions import Self

from editkit.errors import first_line
from editkit.redaction import redacted
from editkit.registry.random_state import RandomState

__all__ = ["Guard", "PluginFailure", "RuleBrokenError", "call_guarded", "reason_of"]

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_LONGEST_REASON = 300
_T = TypeVar("_T")


class RuleBrokenError(Exception):
    """A plugin breaks a rule of the hooks; the message is the reason shown to users."""


class PluginFailure(Exception):
    """A plugin's code failed; the message is the reason in one line.

    Attributes:
        error: What the code raised, of any class.
    """

    def __init__(self, error: BaseException, moment: str) -> None:
        super().__init__(error, moment)
        self.error = error
        self._moment = moment

    def __str__(self) -> str:
        return reason_of(self.error, self._moment)


def reason_of(error: BaseException, moment: str) -> str:
    """One printable line that says why a plugin is broken.

    Args:
        error: What its code raised; its text may be anything, or raise itself.
        moment: What the code was doing: ``being imported``.
    """
    if isinstance(error, KeyboardInterrupt):
        return f"raised KeyboardInterrupt while {moment}, without Ctrl-C"
    try:
        if isinstance(error, SystemExit):
            return f"called sys.exit({error.code!r:.80}) while {moment}"
        text = first_line(error, named=not isinstance(error, RuleBrokenError))
    except BaseException:  # an error that cannot even be shown
        text = type(error).__name__
    if len(text) > _LONGEST_REASON:
        text = f"{text[:_LONGEST_REASON]}..."
    shown = redacted(text)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shown)


class Guard:
    """A context in which a plugin's code runs.

    Args:
        moment: What the code does, for messages: ``being imported``.
        observing: The code should change nothing at all: restore environment variables, random
            numbers and the like, too.

    Attributes:
        moment: As given.
        changes: After the context: the settings that the code changed, and that were restored.

    Raises:
        PluginFailure: At the end of the context: the code raised something.
        KeyboardInterrupt: The user interrupted it, or whatever else a signal's handler raised.
    """

    def __init__(self, moment: str, *, observing: bool = False) -> None:
        self.moment = moment
        self.changes: list[str] = []
        self._observing = observing
        self._raised_by_handlers: list[BaseException] = []

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(_stdout_to_stderr())
        settings = [each for each in _STATE if self._observing or not each.only_observing]
        self._stack.callback(self._restore, [(each, each.read()) for each in settings])
        if threading.current_thread() is threading.main_thread():
            self._stack.enter_context(self._signals_watched())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        if self._raised_by_handlers:  # even if the code swallowed or replaced it
            raise self._raised_by_handlers[0] from None
        if error is None or isinstance(error, PluginFailure):
            return
        if isinstance(error, KeyboardInterrupt) and _interrupts_are_not_pythons():
            return
        raise PluginFailure(error, self.moment) from error

    @contextlib.contextmanager
    def _signals_watched(self) -> Iterator[None]:
        """Keep what handlers raise; afterwards, restore all handlers."""

        def watched(handler: Callable[[int, FrameType | None], Any]) -> Any:
            def handle(number: int, frame: FrameType | None) -> Any:
                try:
                    return handler(number, frame)
                except BaseException as error:
                    self._raised_by_handlers.append(error)
                    raise

            return handle

        before = {number: signal.getsignal(number) for number in signal.valid_signals()}
        during = dict(before)
        for number in _INTERRUPTS:
            if callable(handler := before[number]):
                during[number] = watched(handler)
                signal.signal(number, during[number])
        try:
            yield
        finally:
            for number, handler in before.items():
                if handler is None:  # not set by Python, and not restorable by it
                    continue
                if signal.getsignal(number) is not during[number]:
                    self.changes.append(f"the handler of {signal.Signals(number).name}")
                if signal.getsignal(number) is not handler:
                    signal.signal(number, handler)

    def _restore(self, before: list[tuple[_Setting, Any]]) -> None:
        for setting, value in before:
            if value is None:
                continue
            with contextlib.suppress(Exception):
                if setting.only_observing:
                    setting.write(value)
                elif setting.read() != value:
                    self.changes.append(setting.name)
                    setting.write(value)


def call_guarded(work: Callable[[], _T]) -> _T:
    """What code of a plugin returns that should only observe; the process is left as it was.

    Raises:
        PluginFailure: The code raised something.
        KeyboardInterrupt: The user interrupted it, or whatever else a signal's handler raised.
    """
    with Guard("observing", observing=True):
        return work()


def _interrupts_are_not_pythons() -> bool:
    """Whether SIGINT has a handler of another library, whose interrupts cannot be watched."""
    in_main = threading.current_thread() is threading.main_thread()
    return in_main and signal.getsignal(signal.SIGINT) is None


# ---------------------------------------------------------------- the state of the process


class _Setting(NamedTuple):
    """Something of the process that code of plugins may change."""

    name: str
    read: Callable[[], Any]
    """Its value, to be compared; None where there is none to restore."""
    write: Callable[[Any], object]
    only_observing: bool = False
    """Whether plugins may change it, except in hooks that only observe."""


def _working_directory() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # it was deleted
        return None


def _write_argv(value: list[str]) -> None:
    sys.argv = value


def _write_streams(value: tuple[Any, Any]) -> None:
    sys.stdin, sys.stderr = value


def _states_of(loggers: list[logging.Logger]) -> list[Any]:
    return [
        (each, each.level, each.disabled, each.propagate, [*each.handlers], [*each.filters])
        for each in loggers
    ]


def _write_states_of_loggers(states: list[Any]) -> None:
    for logger, level, disabled, propagate, handlers, filters in states:
        logger.setLevel(level)
        logger.disabled, logger.propagate = disabled, propagate
        logger.handlers[:], logger.filters[:] = handlers, filters


def _our_loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.items()
    return [
        logger
        for name, logger in known
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == "editkit"
    ]


def _logging() -> tuple[int, list[Any]]:
    return logging.root.manager.disable, _states_of([logging.root, logging.getLogger("editkit")])


def _write_logging(value: tuple[int, list[Any]]) -> None:
    logging.disable(value[0])
    _write_states_of_loggers(value[1])
    for logger in _our_loggers():  # logging.config disables the loggers that exist
        logger.disabled = False


def _blanket_filters() -> list[Any]:
    """The filters that apply to all warnings; libraries may add others when they are imported."""
    everything = (Warning, Exception)
    return [f for f in warnings.filters if f[1] is None and f[2] in everything and f[3] is None]


def _write_blanket_filters(value: list[Any]) -> None:
    kept = [f for f in warnings.filters if f in value or f not in _blanket_filters()]
    _write_filters(kept)


def _write_filters(value: list[Any]) -> None:
    warnings.resetwarnings()  # which also makes the caches of the filters invalid
    warnings.filters[:] = value  # type: ignore[index]


def _write_showwarning(value: Any) -> None:
    warnings.showwarning = value


def _write_environment(value: dict[str, str]) -> None:
    if value != os.environ:
        for name in set(os.environ) - set(value):
            del os.environ[name]
        os.environ.update(value)


def _tracing() -> tuple[Any, ...]:
    return sys.gettrace(), sys.getprofile(), gc.isenabled(), _timer()


def _write_tracing(value: tuple[Any, ...]) -> None:
    trace, profile, collecting, timer = value
    if sys.gettrace() is not trace:
        sys.settrace(trace)
    if sys.getprofile() is not profile:
        sys.setprofile(profile)
    (gc.enable if collecting else gc.disable)()
    if timer == _NO_TIMER != _timer():
        signal.setitimer(signal.ITIMER_REAL, 0)


_NO_TIMER = (0.0, 0.0)


def _timer() -> tuple[float, float]:
    """Seconds until an alarm, and between alarms; some platforms have no alarms."""
    return signal.getitimer(signal.ITIMER_REAL) if hasattr(signal, "getitimer") else _NO_TIMER


def _torch() -> Any:
    """torch, if it is loaded, and not in the middle of its import."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "get_deterministic_debug_mode") else None


def _torch_defaults() -> tuple[Any, ...]:
    """Settings that numbers depend on; those of a freshly imported torch if it is not loaded."""
    torch = _torch()
    if torch is None:
        return "torch.float32", "cpu", True, "highest", 0
    return (
        str(torch.get_default_dtype()),
        str(torch.get_default_device()),
        torch.is_grad_enabled(),
        torch.get_float32_matmul_precision(),
        torch.get_deterministic_debug_mode(),
    )


def _write_torch_defaults(value: tuple[Any, ...]) -> None:
    torch = _torch()
    dtype, device, grad, precision, deterministic = value
    torch.set_default_device(None if device == "cpu" else device)
    torch.set_default_dtype(getattr(torch, dtype.removeprefix("torch.")))
    torch.set_grad_enabled(grad)
    torch.set_float32_matmul_precision(precision)
    torch.set_deterministic_debug_mode(deterministic)


def _threads() -> int | None:
    return _torch().get_num_threads() if _torch() else None


_STATE = (
    _Setting("the working directory", _working_directory, os.chdir),
    _Setting("sys.argv", lambda: list(sys.argv), _write_argv),
    _Setting("stdin or stderr", lambda: (sys.stdin, sys.stderr), _write_streams),
    _Setting("logging", _logging, _write_logging),
    _Setting("filters of all warnings", _blanket_filters, _write_blanket_filters),
    _Setting(
        "the locale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda value: locale.setlocale(locale.LC_ALL, value),
    ),
    _Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    _Setting("defaults of torch", _torch_defaults, _write_torch_defaults),
    _Setting("torch's number of threads", _threads, lambda value: _torch().set_num_threads(value)),
    # What importing a plugin may change.
    _Setting(
        "loggers of editkit",
        lambda: _states_of(_our_loggers()),
        _write_states_of_loggers,
        only_observing=True,
    ),
    _Setting(
        "warning filters", lambda: list(warnings.filters), _write_filters, only_observing=True
    ),
    _Setting(
        "how warnings are shown",
        lambda: warnings.showwarning,
        _write_showwarning,
        only_observing=True,
    ),
    _Setting(
        "environment variables",
        lambda: dict(os.environ),
        _write_environment,
        only_observing=True,
    ),
    _Setting("tracing, garbage collection, alarms", _tracing, _write_tracing, only_observing=True),
    _Setting(
        "random numbers", RandomState.capture, lambda value: value.restore(), only_observing=True
    ),
)


# ---------------------------------------------------------------- standard output


class _Borrowed:
    """A stream that code may use and cannot close."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def close(self) -> None:
        """Do nothing: the stream is not the code's own."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Inside, standard output arrives at standard error, that of child processes included."""
    out, err = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        stack.enter_context(_descriptor_to_stderr(out, sys.__stdout__))
        stream: Any = err or stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        sys.stdout = sys.stderr = _Borrowed(stream)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = out, err


@contextlib.contextmanager
def _descriptor_to_stderr(*streams: Any) -> Iterator[None]:
    """The same for the file descriptor, which child processes and C code write to."""
    saved = None
    # A process that was started without standard output may have any file as 1: the store, say.
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


def _flush(streams: tuple[Any, ...]) -> None:
    for stream in streams:
        if stream is not None:
            stream.flush()
