"""One process per output folder and shard."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from editkit.errors import StoreError


@contextlib.contextmanager
def only_one(out: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Inside, this process alone works on this shard of the folder. A killed one leaves no lock.

    Raises:
        StoreError: Another process is at it, or the folder cannot be written.
    """
    name = ".run" if shard[1] == 1 else f".shard-{shard[0]}-of-{shard[1]}"
    owner = out / f"{name}.pid"
    lock = FileLock(out / f"{name}.lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise StoreError(
            f"process {_read(owner)} is running a benchmark in {out}.",
            hint="Wait for it, stop it, or choose another --out folder.",
        ) from None
    except OSError as error:
        raise StoreError(
            f"the output folder {out} cannot be written: {error}.",
            hint="Check its permissions, or choose another --out folder.",
        ) from error
    try:
        owner.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _read(owner: Path) -> str:
    try:
        return owner.read_text(encoding="utf-8") or "unknown"
    except OSError:
        return "unknown"
