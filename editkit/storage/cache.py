"""The cache: files addressed by what they depend on, written atomically, checked when read.

The cache is the folder in ``EDITKIT_CACHE``, by default ``~/.cache/editkit``. Everything in it can
be deleted at any time and is recomputed when needed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from filelock import FileLock

from editkit.errors import CacheError
from editkit.storage.digests import digest_of_tensors, first_difference, key_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "OtherCaches",
    "ask_other_caches",
    "cache_folder",
    "cached_tensors",
    "cached_texts",
    "cached_together",
    "read_safetensors",
    "write_atomically",
    "writing_to_cache",
]

_log = logging.getLogger(__name__)
_ContentT = TypeVar("_ContentT")


class OtherCaches(Protocol):
    """The caches of other machines that work on the same run."""

    def alone(self, entry: str) -> contextlib.AbstractContextManager[bytes | None]:
        """Inside, no other machine computes an entry; gives its file, if one of them has it.

        Args:
            entry: Path of the file, relative to the cache.
        """


_others: OtherCaches | None = None


def ask_other_caches(others: OtherCaches | None) -> None:
    """From now on, ask other machines for what is missing here; None asks nobody."""
    global _others
    _others = others


def cache_folder() -> Path:
    """The cache's folder; it need not exist.

    Raises:
        CacheError: The user has no home folder.
    """
    named = os.environ.get("EDITKIT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        if named:
            return Path(named).expanduser()
        return (Path(base) if base else Path.home() / ".cache") / "editkit"
    except RuntimeError as error:  # no such user, no home
        raise CacheError(
            f"the cache's folder is unknown: {error}",
            hint="Set EDITKIT_CACHE to a folder.",
        ) from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see either the old content or all of the new.

    Devices and pipes (``/dev/stdout``, ``/dev/null``) are written to, not replaced.

    Raises:
        OSError: The file cannot be written: a folder or a database has its name, the disk is full,
            ...; the error names the file, and an earlier file is unchanged.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            stream.write(content)
        return
    if path.exists() and _is_database(path):  # a result store: its results would be lost
        raise FileExistsError(errno.EEXIST, "it is a database, which is not replaced", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as stream:  # with the permissions of the user's umask
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        _remove(temporary)
        # Errors of a write (disk full, quota) do not name the file themselves.
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(temporary: Path) -> None:
    """Remove an unfinished file; failing to do so is not the error to report."""
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
    """Tensors from the cache, or computed now and cached.

    A file that is damaged or belongs to another description is recomputed, with a warning. If two
    processes need the same tensors, the second waits for the first.

    Args:
        kind: Folder in the cache (``second_moment``).
        description: Everything that the tensors depend on, as plain data.
        make: Computes the tensors.
    """
    [tensors] = cached_together(kind, [description], lambda _: [make()])
    return tensors


def cached_together(
    kind: str,
    descriptions: Sequence[Mapping[str, Any]],
    make: Callable[[Sequence[int]], Sequence[Mapping[str, Tensor]]],
) -> list[dict[str, Tensor]]:
    """As :func:`cached_tensors`, for several results that are computed together.

    Args:
        kind: Folder in the cache.
        descriptions: What each result depends on; no two are equal.
        make: Computes the tensors of the results with these indices, those that are not cached.
    """
    folder = cache_folder() / kind
    paths = [folder / f"{key_of(each)}.safetensors" for each in descriptions]
    with contextlib.ExitStack() as locks:
        for path in sorted(paths):  # in one order, so that two processes never wait for each other
            locks.enter_context(_alone(path))
        results = [_read(*each) for each in zip(paths, descriptions, strict=True)]
        for i in sorted(range(len(paths)), key=paths.__getitem__):
            if results[i] is None:
                read = functools.partial(_read, paths[i], descriptions[i])
                results[i] = locks.enter_context(_from_others(paths[i], read))
        missing = [i for i, tensors in enumerate(results) if tensors is None]
        if missing:
            for i, tensors in zip(missing, make(missing), strict=True):
                results[i] = dict(tensors)
                with writing_to_cache():
                    _write(paths[i], descriptions[i], tensors)
    return [tensors for tensors in results if tensors is not None]


@contextlib.contextmanager
def writing_to_cache() -> Iterator[None]:
    """Inside, an :class:`OSError` becomes a :class:`CacheError`."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"the cache {str(cache_folder())!r} cannot be written: {error}.",
            hint="Free disk space or allow writing there, or set EDITKIT_CACHE to another folder.",
        ) from error


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Inside, no other process computes this file."""
    with writing_to_cache():
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _from_others(path: Path, read: Callable[[], _ContentT | None]) -> Iterator[_ContentT | None]:
    """Inside, no other machine computes this file; gives its content, if another one has it."""
    if _others is None:
        yield None
        return
    with _others.alone(path.relative_to(cache_folder()).as_posix()) as content:
        if content is not None:
            with writing_to_cache():
                write_atomically(path, content)
        yield read()


def _write(path: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save

    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "description": json.dumps(description, sort_keys=True),
        "digest": digest_of_tensors(flat),
    }
    write_atomically(path, save(flat, metadata=metadata))


def _read(path: Path, description: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The tensors of a file; None if it is missing, damaged, or has another description."""
    from safetensors import SafetensorError

    try:
        metadata, tensors = read_safetensors(path)
        if metadata.get("digest") != digest_of_tensors(tensors):
            raise ValueError("its content does not match its digest")
        described = json.loads(metadata.get("description", "null"))
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        _log.warning("%s is damaged (%s); it is recomputed", path, error)
        return None
    return tensors if _belongs(path, described, description) else None


def _belongs(path: Path, described: Any, wanted: Mapping[str, Any]) -> bool:
    why = first_difference(described, wanted)
    if why is not None:
        _log.warning("%s belongs to something else (%s); it is recomputed", path, why)
    return why is None


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and copies of the tensors of a safetensors file.

    The library maps the file into memory: later writes would change its tensors, and truncating it
    would crash the process.

    Raises:
        OSError: The file cannot be read.
        SafetensorError: It is damaged, or is not a safetensors file.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stream:
        names = stream.keys()
        return stream.metadata() or {}, {name: stream.get_tensor(name).clone() for name in names}


def cached_texts(
    kind: str, description: Mapping[str, Any], make: Callable[[], Sequence[str]]
) -> list[str]:
    """As :func:`cached_tensors`, for texts."""
    path = cache_folder() / kind / f"{key_of(description)}.json"
    read = functools.partial(_read_texts, path, description)
    with contextlib.ExitStack() as locks:
        locks.enter_context(_alone(path))
        cached = read()
        if cached is None:
            cached = locks.enter_context(_from_others(path, read))
        if cached is not None:
            return cached
        texts = list(make())
        content = {"description": description, "digest": key_of({"texts": texts}), "texts": texts}
        with writing_to_cache():
            write_atomically(path, json.dumps(content).encode())
    return texts


def _read_texts(path: Path, description: Mapping[str, Any]) -> list[str] | None:
    """The texts of a file; None if it is missing, damaged, or has another description."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        texts, digest, described = content["texts"], content["digest"], content["description"]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("it has no texts")
        if digest != key_of({"texts": texts}):
            raise ValueError("its content does not match its digest")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        _log.warning("%s is damaged (%s: %s); it is recomputed", path, type(error).__name__, error)
        return None
    return texts if _belongs(path, described, description) else None
