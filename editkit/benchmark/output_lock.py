"""One process per output folder and shard."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from editkit.errors import StoreError

__all__ = ["exclusive"]


@contextlib.contextmanager
def exclusive(out: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Keep other processes from running this shard in this folder. A killed process leaves no lock.

    Args:
        out: The output folder.
        shard: (I, N): part I of N.

    Raises:
        StoreError: Another process is running, or the folder is not writable.
    """
    name = ".run" if shard[1] == 1 else f".shard-{shard[0]}-of-{shard[1]}"
    owner = out / f"{name}.pid"
    lock = FileLock(out / f"{name}.lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        try:
            pid = owner.read_text(encoding="utf-8") or "unknown"
        except OSError:
            pid = "unknown"
        raise StoreError(
            f"process {pid} is running a benchmark in {out}.",
            hint="Wait for it, stop it, or choose another --out folder.",
        ) from None
    except OSError as error:
        raise StoreError(
            f"the output folder {out} is not writable: {error}.",
            hint="Check its permissions, or choose another --out folder.",
        ) from error
    try:
        owner.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()
