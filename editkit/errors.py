"""The errors that users see: what was wrong, what was expected, what to do next.

Each class has the exit code of the command line and the name of its page in ``docs/errors``.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from typing import ClassVar

from editkit.redaction import redacted

__all__ = [
    "CacheError",
    "ClusterError",
    "ConfigError",
    "DatasetError",
    "DeltaError",
    "EditkitError",
    "JudgeError",
    "LedgerError",
    "ModelError",
    "PluginError",
    "RequestError",
    "StoreError",
    "TrackingError",
    "UsageError",
    "did_you_mean",
    "first_line",
]


class EditkitError(Exception):
    """Base of the errors that editkit and its plugins raise on purpose.

    Passwords and tokens are removed from both texts (:mod:`editkit.redaction`).

    Args:
        message: What was wrong, with the offending value, and what was expected.
        hint: What to do next, as an imperative sentence.
    """

    exit_code: ClassVar[int] = 1
    page: ClassVar[str] = "index"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = redacted(message)
        self.hint = None if hint is None else redacted(hint)
        super().__init__(self.message)
        if sys.version_info >= (3, 11):  # in tracebacks, below the message
            self.add_note(f"see: {self.reference}")

    @property
    def reference(self) -> str:
        """The command that explains errors of this class."""
        return "editkit explain errors" + ("" if self.page == "index" else f"/{self.page}")

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class UsageError(EditkitError):
    """Arguments of a command or a Python function do not fit, or the command does not exist."""

    exit_code = 2
    page = "usage"


class ConfigError(EditkitError):
    """A configuration has an unknown field, a value out of range, or the wrong type."""

    exit_code = 2
    page = "config"


class RequestError(EditkitError):
    """An edit request cannot be carried out."""

    exit_code = 2
    page = "request"


class DatasetError(EditkitError):
    """A dataset does not exist, cannot be read, or has no usable record."""

    exit_code = 2
    page = "dataset"


class ModelError(EditkitError):
    """A model does not exist, cannot be read, or has an unknown architecture."""

    exit_code = 2
    page = "model"


class DeltaError(EditkitError):
    """A weight delta does not fit the model, or its file is damaged."""

    exit_code = 2
    page = "delta"


class LedgerError(EditkitError):
    """A ledger refuses an action, or its files are damaged or cannot be written."""

    exit_code = 2
    page = "ledger"


class CacheError(EditkitError):
    """A cached or imported file is damaged and cannot be recomputed, or cannot be written."""

    exit_code = 2
    page = "cache"


class PluginError(EditkitError):
    """A plugin is missing, broken, or clashes with another."""

    exit_code = 3
    page = "plugin"


class ClusterError(EditkitError):
    """A cluster cannot be reached, its machines do not fit each other, or no worker is left."""

    exit_code = 4
    page = "cluster"


class JudgeError(EditkitError):
    """A judge cannot decide anything: its service is unreachable, or refuses every request."""

    exit_code = 4
    page = "judge"


class StoreError(EditkitError):
    """The result store cannot be read or written."""

    exit_code = 4
    page = "store"


class TrackingError(EditkitError):
    """A tracking service could not be updated; the results are safe in the store."""

    exit_code = 4
    page = "tracking"


def first_line(error: BaseException, *, named: bool = False) -> str:
    """The first line of an error's message; the name of its class if there is no message.

    Args:
        error: Any error, ours or a library's.
        named: Put the name of its class in front: ``"ValueError: expected 3 layers"``.
    """
    message = error.message if isinstance(error, EditkitError) else str(error)
    line = next(iter(message.strip().splitlines()), "")
    name = type(error).__name__
    return f"{name}: {line}" if named and line else line or name


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """``"Did you mean 'x'?"`` for the known name closest to ``name``; None if none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"Did you mean {matches[0]!r}?" if matches else None
