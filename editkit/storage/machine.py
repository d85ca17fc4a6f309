"""Whether a disk is full: what SQLite and libraries report as other errors."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

__all__ = [
    "available_memory",
    "is_about_space",
    "memory_of_this_process",
    "peak_memory_of_this_process",
    "space_left",
]

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


def memory_of_this_process() -> int:
    """Resident memory now, in bytes (at its highest, where the system tells nothing else)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return peak_memory_of_this_process()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory_of_this_process() -> int:
    """Resident memory at its highest, in bytes; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        # Elsewhere; on Linux this would count what the parent held before it started us.
        try:
            import resource
        except ImportError:
            return 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def available_memory(device: str = "cpu") -> int | None:
    """Free memory of the host or of a GPU, in bytes; None where it cannot be told."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0]) if torch.cuda.is_available() else None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return found[0] * 1024 if found else None
