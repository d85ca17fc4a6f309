"""Whether a disk is full: what SQLite and libraries report as other errors."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

__all__ = ["is_about_space", "space_left"]

_LITTLE = 1 << 20  # SQLite needs some of it for files of its own beside a database
_CODES = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_WORDS = ("disk is full", "no space left on device", "quota exceeded")


def space_left(path: Path) -> str:
    """Text about a nearly full disk, to be added to an error that may come of it.

    SQLite reports a full disk as "disk I/O error", too, or as a file that cannot be opened.

    Args:
        path: A file or folder, which need not exist.

    Returns:
        ``; its disk is full: 12 KiB are free``; empty where more than 1 MiB is free, and where
        the system does not say.
    """
    folder = path.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return "" if free > _LITTLE else f"; its disk is full: {free >> 10} KiB are free"


def is_about_space(error: BaseException) -> bool:
    """Whether an error, or what it came from, is a full disk or a quota that is used up."""
    seen: set[int] = set()
    part: BaseException | None = error
    while part is not None and id(part) not in seen:
        seen.add(id(part))
        if isinstance(part, OSError) and part.errno in _CODES:
            return True
        if any(words in str(part).lower() for words in _WORDS):
            return True
        part = part.__cause__ or part.__context__
    return False
