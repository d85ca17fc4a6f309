"""Folders that appear whole or not at all, even if the process is killed while it writes them."""

from __future__ import annotations

import contextlib
import errno
import glob
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["new_folder"]

_PARTIAL = ".editkit-"
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder next to ``target`` to write to; it gets that name at the end of the block.

    If the block raises, or the process is killed, nothing has the final name. What a killed process
    left is removed by the next call with the same target.

    Args:
        target: It must not exist, or be an empty folder.

    Raises:
        OSError: It exists and is not an empty folder, or cannot be written.
    """
    target = Path(os.path.realpath(target))
    _check_free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    temporary = target.with_name(f".{target.name}{_PARTIAL}{uuid.uuid4().hex[:12]}")
    lock = FileLock(_lock_of(temporary))
    with lock:
        try:
            temporary.mkdir()
            yield temporary
            _sync(temporary)
            _check_free(target)
            temporary.replace(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            _lock_of(temporary).unlink(missing_ok=True)
    _sync_names(target.parent)


def _check_free(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(errno.EEXIST, "it is a file", str(target))
    if any(target.iterdir()):
        raise FileExistsError(errno.EEXIST, "it exists and is not empty", str(target))


def _lock_of(temporary: Path) -> Path:
    """The lock that the writer of a hidden folder holds; it exists before the folder does."""
    return temporary.with_name(f"{temporary.name}.lock")


def _remove_leftovers(target: Path) -> None:
    """Remove the folders of processes that died before they could rename them."""
    for left in target.parent.glob(f".{glob.escape(target.name)}{_PARTIAL}*"):
        if not left.is_dir():
            continue
        try:
            with FileLock(_lock_of(left), timeout=0):
                shutil.rmtree(left, ignore_errors=True)
                _lock_of(left).unlink(missing_ok=True)
        except Timeout:  # another process is writing it now
            continue
        _log.warning("%s was left by an interrupted process; it is removed", left)


def _sync(folder: Path) -> None:
    """Let the disk have every file of a folder before the folder gets its name."""
    for root, _, files in os.walk(folder):
        for name in files:
            with (Path(root) / name).open("rb+") as stream:
                os.fsync(stream.fileno())
        _sync_names(Path(root))


def _sync_names(folder: Path) -> None:
    if os.name == "nt":  # has no handles of folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
