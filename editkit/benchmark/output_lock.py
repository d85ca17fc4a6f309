"""One process per output folder and shard."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from editkit.errors import StoreError
from editkit.storage.machine import network_file_system

__all__ = ["check_folder", "exclusive"]


@contextlib.contextmanager
def exclusive(out: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Keep other processes from running this shard in this folder. A killed process leaves no lock.

    Args:
        out: The output folder.
        shard: (I, N): part I of N.

    Raises:
        StoreError: Another process is running, or the folder fails :func:`check_folder`.
    """
    check_folder(out, shard)
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
        _check_shared(out, shard)  # again: others may have started meanwhile
        owner.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def check_folder(out: Path, shard: tuple[int, int]) -> None:
    """Check that results can be written to a folder, which may be new. Nothing is created.

    Args:
        out: The output folder.
        shard: (I, N): part I of N.

    Raises:
        StoreError: A file has its name or that of a folder above it, it is not writable, or several
            shards use one folder of a network file system.
    """
    place = next(path for path in (out, *out.absolute().parents) if os.path.lexists(path))
    if not place.is_dir():
        where = "" if place == out else f"the output folder {out} cannot be made: "
        raise StoreError(
            f"{where}{place} is a file, not a folder.",
            hint="Name a new folder or one with results, such as --out editkit-results.",
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise StoreError(
            f"the output folder {out} is not writable: no permission to write to {place}.",
            hint="Check its permissions, or choose another --out folder.",
        )
    _check_shared(out, shard)


def _check_shared(out: Path, shard: tuple[int, int]) -> None:
    """Refuse a folder with the locks of other shards that other machines may write to.

    In WAL mode, processes share an index in memory, which is not possible across machines: two of
    them would overwrite each other's rows.
    """
    number, of = shard
    others = {path.stem for path in out.glob(".shard-*.lock")} - {f".shard-{number}-of-{of}"}
    kind = network_file_system(out) if of > 1 and others else None
    if kind:
        raise StoreError(
            f"{out} has the lock of another shard ({min(others)[1:]}), and it is on {kind}, a "
            "network file system: SQLite would lose rows if several machines wrote to one file.",
            hint=f"Give every shard a folder of its own, such as --out {out}/{number}, and join "
            "them with 'editkit merge'.",
        )
