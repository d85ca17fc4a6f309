"""Records of a folder's files, which show later what has changed in it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path

from editkit.storage.digests import file_blocks, sha256_of

__all__ = ["FileRecord", "differences", "flush", "flushed_records", "record_of"]

_SETTLED_NS = 2_000_000_000  # a second write this soon after the first may leave the same time


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """A file as it was read or written.

    Attributes:
        size: In bytes.
        sha256: Digest of its content.
        mtime_ns: When it was last changed, in nanoseconds; 0: it was too new to rely on that.
    """

    size: int
    sha256: str
    mtime_ns: int


def record_of(path: Path) -> FileRecord:
    """Size, digest and time of a file."""
    before = path.stat()
    digest = sha256_of(file_blocks(path))
    settled = time.time_ns() - before.st_mtime_ns > _SETTLED_NS
    return FileRecord(before.st_size, digest, before.st_mtime_ns if settled else 0)


def flushed_records(folder: Path) -> dict[str, FileRecord]:
    """Records of all files of a folder that was just written; they are on the disk afterwards."""
    records = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            flush(path)
            stat = path.stat()
            digest = sha256_of(file_blocks(path))
            name = path.relative_to(folder).as_posix()
            records[name] = FileRecord(stat.st_size, digest, stat.st_mtime_ns)
    flush(folder)
    return records


def differences(
    folder: Path, files: Mapping[str, FileRecord], *, whole: bool = False, more: bool = True
) -> list[str]:
    """How a folder differs from its record, a clause for each file.

    Args:
        folder: The folder.
        files: Its record.
        whole: Read every file; otherwise only those with another time or size.
        more: Whether files without a record count.
    """
    if not folder.is_dir():
        return [f"{folder} is missing"]
    problems = []
    for name, record in files.items():
        path = folder / name
        try:
            stat = path.stat()
            same = stat.st_size == record.size and (
                (not whole and record.mtime_ns == stat.st_mtime_ns)
                or sha256_of(file_blocks(path)) == record.sha256
            )
        except FileNotFoundError:
            problems.append(f"{path} is missing")
            continue
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror or error}")
            continue
        if not same:
            problems.append(f"{path} has changed")
    if more:
        names = (path for path in sorted(folder.rglob("*")) if path.is_file())
        problems += [
            f"{path} is new" for path in names if path.relative_to(folder).as_posix() not in files
        ]
    return problems


def flush(path: Path) -> None:
    """Write a file or folder to the disk, where the system can do that."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
