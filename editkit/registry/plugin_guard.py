"""Running a plugin's code as a guest: what it raises, prints and changes stays its own trouble.

Inside :class:`Guarded`

- whatever the plugin raises becomes a :class:`PluginFailure`, ``SystemExit``, ``GeneratorExit`` and
  any other ``BaseException`` included. Only an interrupt that somebody outside asked for passes
  (Ctrl-C, SIGTERM), also where the plugin swallows it: a signal handler notes that it came. A
  ``KeyboardInterrupt`` that the plugin raises by itself is a failure like any other;
- what it writes to stdout goes to stderr, so that ``--json`` prints one document;
- settings of the process that it changed are put back, and listed in :attr:`Guarded.changes`.
"""

from __future__ import annotations

import contextlib
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
from typing import Any

from typing_extensions import Self

from editkit.errors import first_line
from editkit.redaction import redacted

__all__ = ["Guarded", "PluginFailure", "reason_of"]

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_LONGEST_REASON = 300


class Unsound(Exception):
    """A plugin breaks the rules; the message is the reason shown to users."""


class PluginFailure(Exception):
    """A plugin's code failed; the message is the reason in one line."""


def reason_of(error: BaseException, moment: str) -> str:
    """One printable line that says why a plugin is broken."""
    try:
        if isinstance(error, SystemExit):
            return f"called sys.exit({error.code!r:.80}) while {moment}"
        text = first_line(error, named=not isinstance(error, Unsound | PluginFailure))
    except BaseException:  # an error that cannot even be shown
        text = type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        return f"raised KeyboardInterrupt while {moment}, without Ctrl-C"
    if len(text) > _LONGEST_REASON:
        text = f"{text[:_LONGEST_REASON]}..."
    shown = redacted(text)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shown)


class Guarded:
    """A context in which a plugin's code runs.

    Args:
        moment: What it is doing, for reasons: ``being imported``.

    Attributes:
        moment: What it is doing.
        changes: After the context: the settings that were changed, and put back.

    Raises:
        PluginFailure: At the end of the context: the code raised.
        KeyboardInterrupt: Somebody outside interrupted it.
    """

    def __init__(self, moment: str) -> None:
        self.changes: list[str] = []
        self.moment = moment
        self._signalled: int | None = None
        self._earlier: dict[int, Any] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._before = [get() for _, get, _ in _SETTINGS]
        self._stack.enter_context(_stdout_to_stderr())
        self._watch_interrupts()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._put_back()
        self._stack.close()
        if self._signalled is not None:
            if isinstance(error, KeyboardInterrupt):
                return  # passes
            self._earlier[self._signalled](self._signalled, None)  # the plugin swallowed it
            raise KeyboardInterrupt from error
        if error is None or isinstance(error, PluginFailure):
            return
        if isinstance(error, KeyboardInterrupt) and self._unwatched():
            return
        raise PluginFailure(reason_of(error, self.moment)) from error

    # ------------------------------------------------------------ interrupts

    def _watch_interrupts(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _INTERRUPTS:
            earlier = signal.getsignal(number)
            if callable(earlier):
                self._earlier[number] = earlier
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = number
        self._earlier[number](number, frame)

    def _unwatched(self) -> bool:
        """Whether an interrupt may have come that nobody could note."""
        in_main = threading.current_thread() is threading.main_thread()
        return in_main and signal.getsignal(signal.SIGINT) is None  # not Python's own handler

    # ------------------------------------------------------------ settings

    def _put_back(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, earlier in self._earlier.items():
                if signal.getsignal(number) != self._note:
                    self.changes.append(f"the handler of {signal.Signals(number).name}")
                signal.signal(number, earlier)
        for before, (name, get, put) in zip(self._before, _SETTINGS, strict=True):
            if before is not None and get() != before:
                with contextlib.suppress(Exception):
                    put(before)
                self.changes.append(name)


# ---------------------------------------------------------------- settings of the process


def _directory() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:
        return None


def _logging() -> Any:
    root, ours = logging.root, logging.getLogger("editkit")
    mine = (ours.level, ours.propagate, ours.disabled, tuple(ours.handlers), tuple(ours.filters))
    return root.level, tuple(root.handlers), root.manager.disable, mine


def _put_logging(before: Any) -> None:
    root, ours = logging.root, logging.getLogger("editkit")
    root.level, root.handlers[:], root.manager.disable, mine = (
        before[0],
        list(before[1]),
        before[2],
        before[3],
    )
    ours.level, ours.propagate, ours.disabled = mine[:3]
    ours.handlers[:], ours.filters[:] = list(mine[3]), list(mine[4])
    for name, logger in root.manager.loggerDict.items():
        if name.startswith("editkit.") and isinstance(logger, logging.Logger):
            logger.disabled = False
    root.manager._clear_cache()  # type: ignore[attr-defined]


def _blanket_filters() -> tuple[Any, ...]:
    """Filters of warnings that are about all of them."""
    return tuple(
        entry
        for entry in warnings.filters
        if entry[1] is None and entry[2] in (Warning, Exception) and entry[3] is None
    )


def _put_blanket_filters(before: tuple[Any, ...]) -> None:
    kept = [entry for entry in _all_filters() if entry not in _blanket_filters() or entry in before]
    with contextlib.suppress(AttributeError):
        _all_filters()[:] = kept
        warnings._filters_mutated()  # type: ignore[attr-defined]


def _all_filters() -> list[Any]:
    filters: Any = warnings.filters
    found: list[Any] = filters
    return found


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in _OTHER_SIGNALS}


def _put_handlers(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


_OTHER_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGHUP", "SIGPIPE", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD")
    if hasattr(signal, name)
]


def _torch() -> tuple[Any, ...] | None:
    """Defaults of torch that numbers depend on; those of a new torch where it is not loaded."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "is_deterministic_algorithms_warn_only_enabled"):
        return _TORCH
    return (
        str(torch.get_default_dtype()),
        str(torch.get_default_device()),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )


_TORCH = ("torch.float32", "cpu", True, False)


def _put_torch(before: tuple[Any, ...]) -> None:
    torch: Any = sys.modules["torch"]
    dtype, device, grad, deterministic = before
    torch.set_default_dtype(getattr(torch, dtype.removeprefix("torch.")))
    torch.set_default_device(None if device == "cpu" else device)
    torch.set_grad_enabled(grad)
    torch.use_deterministic_algorithms(deterministic)


def _threads() -> int | None:
    torch: Any = sys.modules.get("torch")
    return torch.get_num_threads() if hasattr(torch, "get_num_threads") else None


def _put_argv(before: list[str]) -> None:
    sys.argv = before


def _streams() -> tuple[Any, Any]:
    return sys.stdin, sys.stderr


def _put_streams(before: tuple[Any, Any]) -> None:
    sys.stdin, sys.stderr = before


def _put_locale(before: str) -> None:
    locale.setlocale(locale.LC_ALL, before)


_SETTINGS: tuple[tuple[str, Callable[[], Any], Callable[[Any], None]], ...] = (
    ("the working directory", _directory, os.chdir),
    ("sys.argv", lambda: list(sys.argv), _put_argv),
    ("stdin or stderr", _streams, _put_streams),
    ("handlers of signals", _handlers, _put_handlers),
    ("logging", _logging, _put_logging),
    ("filters of all warnings", _blanket_filters, _put_blanket_filters),
    ("the locale", lambda: locale.setlocale(locale.LC_ALL), _put_locale),
    ("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    ("defaults of torch", _torch, _put_torch),
    ("torch's number of threads", _threads, lambda n: sys.modules["torch"].set_num_threads(n)),
)


# ---------------------------------------------------------------- stdout


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Inside, what is written to stdout goes to stderr, by C libraries and child processes, too."""
    before = sys.stdout
    with contextlib.ExitStack() as stack:
        copy = _copy_of_stdout()
        if copy is not None:
            os.dup2(2, 1)
            stack.callback(os.close, copy)
            stack.callback(os.dup2, copy, 1)
        if sys.stderr is None:
            sys.stdout = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        else:
            sys.stdout = sys.stderr
        try:
            yield
        finally:
            sys.stdout = before


def _copy_of_stdout() -> int | None:
    """A copy of file descriptor 1; None where sys.stdout and sys.stderr are not 1 and 2."""
    try:
        if (sys.stdout.fileno(), sys.stderr.fileno()) != (1, 2):
            return None
        sys.stdout.flush()
        return os.dup(1)
    except (AttributeError, OSError, ValueError):  # closed, or replaced by a notebook or a test
        return None
