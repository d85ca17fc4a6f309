"""What no argument of any command may be, whoever declared it, and types that commands share."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from editkit.errors import UsageError
from editkit.validation import text_problem

__all__ = ["check_texts", "guard_paths", "positive"]

_LONGEST_NAME = 255  # bytes of one part of a path, on every common file system
_LONGEST_PATH = 4096
_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/")


def guard_paths(parser: argparse.ArgumentParser) -> None:
    """Make every argument that is a path refuse what can be none."""
    for action in parser._actions:
        if action.type is Path:
            action.type = path


def path(text: str) -> Path:
    """A path that a file may have.

    Raises:
        argparse.ArgumentTypeError: It is empty, too long, or holds what no path holds.
    """
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty text")
    if problem := text_problem(text):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no path: {problem}")
    if _ADDRESS.match(text):  # as a path it would lose a slash, and its password would be shown
        raise argparse.ArgumentTypeError(f"{text!r} is an address, expected a path")
    size = len(text.encode())
    longest = max(len(part.encode()) for part in text.split("/"))
    if longest > _LONGEST_NAME or size > _LONGEST_PATH:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r}... is no path: it has {size} bytes, and its longest part {longest}"
        )
    return Path(text)


def check_texts(args: argparse.Namespace) -> None:
    """Refuse texts that no file, model or result can hold.

    Raises:
        UsageError: A text holds a NUL or is not valid Unicode.
    """
    for name, value in vars(args).items():
        for text in _texts(value):
            if problem := text_problem(text):
                raise UsageError(
                    f"--{name.replace('_', '-')}: {text[:80]!r}: {problem}.",
                    hint="Write it as plain UTF-8 text.",
                )


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    return []


def positive(text: str) -> int:
    """A whole number above 0; digits may be grouped, as in ``100_000`` or ``100,000``.

    Raises:
        ArgumentTypeError: It is something else.
    """
    try:
        number = int(text.replace("_", "").replace(",", ""))
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number above 0")
    return number
