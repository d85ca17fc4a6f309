"""Content-addressed files: written whole or not at all, checked when read, made once.

The cache is the folder named by ``EDITKIT_CACHE``, by default ``~/.cache/editkit``. Everything in
it can be deleted at any time: it is made again when next needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "cache_folder",
    "cached_tensors",
    "cached_texts",
    "digest_of_file",
    "digest_of_tensors",
    "key_of",
    "read_safetensors",
    "write_atomically",
]


def cache_folder() -> Path:
    """The cache's folder; it need not exist."""
    named = os.environ.get("EDITKIT_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "editkit"


def key_of(description: Mapping[str, Any]) -> str:
    """Hexadecimal key of a description: equal descriptions, equal keys."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as stream:  # its rights are the user's own choice (umask)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def cached_tensors(
    kind: str,
    description: Mapping[str, Any],
    make: Callable[[], Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """Tensors from the cache, or made now and kept for the next time.

    A damaged file is made again. Two processes that want the same tensors make them once: the
    second waits for the first.

    Args:
        kind: Folder within the cache (``second_moment``).
        description: Everything that the tensors depend on, as plain data.
        make: Computes them.
    """
    path = cache_folder() / kind / f"{key_of(description)}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        found = _read(path)
        if found is None:
            found = dict(make())
            _write(path, description, found)
    return found


def _write(path: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save

    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "description": json.dumps(description, sort_keys=True),
        "digest": digest_of_tensors(flat),
    }
    write_atomically(path, save(flat, metadata=metadata))


def _read(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a file, or None if it is missing or damaged."""
    from safetensors import SafetensorError

    try:
        metadata, tensors = read_safetensors(path)
    except (SafetensorError, OSError):
        return None
    return tensors if metadata.get("digest") == digest_of_tensors(tensors) else None


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file.

    Raises:
        OSError: The file cannot be read.
        SafetensorError: It is damaged, or no safetensors file.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stream:
        names = stream.keys()
        return stream.metadata() or {}, {name: stream.get_tensor(name) for name in names}


def digest_of_file(name: str) -> str:
    """Hexadecimal digest of a file's bytes, given as a path or as ``package:file``.

    Empty where there is no such file: whoever reads it says so.
    """
    package, colon, inside = name.partition(":")
    path = Path(name).expanduser()
    if colon and package.replace(".", "").isidentifier():
        with contextlib.suppress(ModuleNotFoundError):
            path = Path(str(importlib.resources.files(package) / inside))
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def digest_of_tensors(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Hexadecimal digest of named tensors (names, types, shapes, bytes) and a text."""
    import torch

    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            texts = [str(text) for text in found["texts"]]
            if found["digest"] == key_of({"texts": texts}):
                return texts
        except (OSError, ValueError, KeyError, TypeError):
            pass  # missing or damaged: made again below
        texts = list(make())
        content = {"description": description, "digest": key_of({"texts": texts}), "texts": texts}
        write_atomically(path, json.dumps(content).encode())
    return texts
