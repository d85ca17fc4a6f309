"""Content-addressed files: written whole or not at all, checked when read, made once.

The cache is the folder named by ``EDITKIT_CACHE``, by default ``~/.cache/editkit``. Everything in
it can be deleted at any time: it is made again when next needed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from editkit.errors import CacheError
from editkit.storage.digests import digest_of_tensors, first_difference, key_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "cache_folder",
    "cached_tensors",
    "cached_texts",
    "read_safetensors",
    "write_atomically",
    "writing_to_cache",
]

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The cache's folder; it need not exist.

    Raises:
        CacheError: There is no home folder that it could be in.
    """
    named = os.environ.get("EDITKIT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        if named:
            return Path(named).expanduser()
        return (Path(base) if base else Path.home() / ".cache") / "editkit"
    except RuntimeError as error:  # no such user, no home
        raise CacheError(
            f"the cache's folder is not known: {error}",
            hint="Name a folder in EDITKIT_CACHE.",
        ) from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part of it.

    A device or a pipe (``/dev/stdout``, ``/dev/null``) is written to, not replaced.

    Raises:
        OSError: It cannot be written: a folder or a database has that name, the disk is full, ...;
            the error names the file, and an earlier file is as it was.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            stream.write(content)
        return
    if path.exists() and _is_database(path):  # a result store, whose results would be lost
        raise FileExistsError(errno.EEXIST, "a database is there, and is kept", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as stream:  # its rights are the user's own choice (umask)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        _remove(temporary)
        # What the system refuses while it writes (disk full, quota) names no file by itself.
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(temporary: Path) -> None:
    """Remove what was begun; that it cannot be is not the error to report."""
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def _is_database(path: Path) -> bool:
    magic = b"SQLite format 3\0"
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def cached_tensors(
    kind: str,
    description: Mapping[str, Any],
    make: Callable[[], Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """Tensors from the cache, or made now and kept for the next time.

    A file that is damaged, or that belongs to something else than its name says, is made again,
    with a warning. Two processes that want the same tensors make them once: the second waits for
    the first.

    Args:
        kind: Folder within the cache (``second_moment``).
        description: Everything that the tensors depend on, as plain data.
        make: Computes them.
    """
    path = cache_folder() / kind / f"{key_of(description)}.safetensors"
    with _alone(path):
        found = _read(path, description)
        if found is None:
            found = dict(make())
            with writing_to_cache():
                _write(path, description, found)
    return found


@contextlib.contextmanager
def writing_to_cache() -> Iterator[None]:
    """Inside, a cache that cannot be written is a :class:`CacheError`."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"the cache {str(cache_folder())!r} cannot be written: {error}.",
            hint="Make room or allow writing there, or name another folder in EDITKIT_CACHE.",
        ) from error


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Inside, no other process makes this file."""
    with writing_to_cache():
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write(path: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save

    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "description": json.dumps(description, sort_keys=True),
        "digest": digest_of_tensors(flat),
    }
    write_atomically(path, save(flat, metadata=metadata))


def _read(path: Path, description: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The tensors of a file, or None if it is missing, damaged, or of another description."""
    from safetensors import SafetensorError

    try:
        metadata, tensors = read_safetensors(path)
        if metadata.get("digest") != digest_of_tensors(tensors):
            raise ValueError("its content does not match its digest")
        described = json.loads(metadata.get("description", "null"))
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        _log.warning("%s is damaged (%s); it is made again", path, error)
        return None
    return tensors if _belongs(path, described, description) else None


def _belongs(path: Path, described: Any, wanted: Mapping[str, Any]) -> bool:
    why = first_difference(described, wanted)
    if why is not None:
        _log.warning("%s belongs to something else (%s); it is made again", path, why)
    return why is None


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file, in memory of their own.

    The library maps the file: what is written into it later would change the tensors, and a file
    that is cut off would end the process.

    Raises:
        OSError: The file cannot be read.
        SafetensorError: It is damaged, or no safetensors file.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stream:
        names = stream.keys()
        return stream.metadata() or {}, {name: stream.get_tensor(name).clone() for name in names}


def cached_texts(
    kind: str, description: Mapping[str, Any], make: Callable[[], Sequence[str]]
) -> list[str]:
    """Texts from the cache, or made now and kept; damaged files are made again.

    Args:
        kind: Folder within the cache.
        description: Everything that the texts depend on, as plain data.
        make: Computes them.
    """
    path = cache_folder() / kind / f"{key_of(description)}.json"
    with _alone(path):
        found = _read_texts(path, description)
        if found is not None:
            return found
        texts = list(make())
        content = {"description": description, "digest": key_of({"texts": texts}), "texts": texts}
        with writing_to_cache():
            write_atomically(path, json.dumps(content).encode())
    return texts


def _read_texts(path: Path, description: Mapping[str, Any]) -> list[str] | None:
    """The texts of a file, or None if it is missing, damaged, or of another description."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        texts, digest, described = found["texts"], found["digest"], found["description"]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("it holds no texts")
        if digest != key_of({"texts": texts}):
            raise ValueError("its content does not match its digest")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        _log.warning("%s is damaged (%s: %s); it is made again", path, type(error).__name__, error)
        return None
    return texts if _belongs(path, described, description) else None
