"""This machine: free disk space, and memory of the process, the host and its GPUs."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

__all__ = [
    "available_memory",
    "free_memory",
    "is_about_space",
    "is_out_of_memory",
    "memory_of_this_process",
    "network_file_system",
    "peak_memory_of_this_process",
    "space_left",
]

_LITTLE = 1 << 20  # bytes; SQLite needs space for files next to its database
_CODES = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_WORDS = ("disk is full", "no space left on device", "quota exceeded")
_NETWORK = {
    *("afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "panfs"),
    *("smb3", "smbfs", "wekafs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"),
}
_MOUNTS = Path("/proc/mounts")


def space_left(path: Path) -> str:
    """A clause about a full disk, for an error that a full disk may have caused.

    SQLite also reports a full disk as "disk I/O error" or as a file that it cannot open.

    Args:
        path: A file or folder; it need not exist.

    Returns:
        ``"; its disk is full: 12 KiB are free"``; empty if more than 1 MiB is free or the free
        space is unknown.
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
    """Whether an error, or one of its causes, is a full disk or an exhausted quota."""
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of the host or of a GPU does not suffice.

    torch raises a class of its own for GPUs, and a plain ``RuntimeError`` for the host.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in words or "DefaultCPUAllocator: can't allocate memory" in words
    )


def network_file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """The type of the network file system that a path is on: ``nfs4``; None for a local one.

    Only Linux lists what is mounted; elsewhere, and for unknown types, the answer is None.

    Args:
        path: A file or folder; it need not exist.
        mounts: The list of what is mounted.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    place, kind, longest = path.resolve(), "", 0
    for line in lines:
        _, mounted, own_kind, *_ = line.split(" ")
        folder = Path(mounted.replace("\\040", " "))  # how the list writes spaces
        if place.is_relative_to(folder) and len(folder.parts) >= longest:
            kind, longest = own_kind, len(folder.parts)
    return kind if kind in _NETWORK else None


def free_memory() -> None:
    """Return what the allocators of torch and C keep for later to the GPU and the system."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def memory_of_this_process() -> int:
    """Resident memory now, in bytes; the peak on systems that report nothing else."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return peak_memory_of_this_process()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory_of_this_process() -> int:
    """Peak of the resident memory, in bytes; 0 if the system does not report it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        # Other systems; on Linux, this number would include the parent's memory before the fork.
        try:
            import resource
        except ImportError:
            return 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def available_memory(device: str = "cpu") -> int | None:
    """Free memory of the host or of a GPU, in bytes; None if unknown."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0]) if torch.cuda.is_available() else None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return free[0] * 1024 if free else None
