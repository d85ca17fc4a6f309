"""Memory of this process and of the machine, as the system tells it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["available_memory", "memory_of_this_process", "peak_memory_of_this_process"]


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
