"""SIGTERM and Ctrl-C inside a command, whatever a library makes of them."""

from __future__ import annotations

import signal

import pytest

from editkit.cli.signals import Terminated, terminable


def as_compiled_code(number: signal.Signals) -> None:
    """Receive a signal as Ray does: any KeyboardInterrupt of a handler becomes a plain one."""
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt:
        interrupted = True
    if interrupted:
        raise KeyboardInterrupt


def test_sigterm_is_sigterm_although_a_library_raises_a_keyboard_interrupt() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), terminable():
        as_compiled_code(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_stays_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, terminable():
        as_compiled_code(signal.SIGINT)
    assert type(caught.value) is KeyboardInterrupt
