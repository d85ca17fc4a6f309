"""Every digest of the project: of parts, plain data, texts, files and tensors.

Stores, caches, deltas and trained editors keep these values, so none of them may change. Two
algorithms are in use: SHA-256 for what stores keep, BLAKE2b of 16 bytes for caches and weights.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.errors import ConfigError
from editkit.storage.resources import path_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ascii_json",
    "blake2b_of",
    "canonical_json",
    "digest",
    "digest_of_file",
    "digest_of_tensors",
    "digest_of_texts",
    "file_blocks",
    "first_difference",
    "key_of",
    "plain",
    "seed_of",
    "sha256_of",
]


# ---------------------------------------------------------------- parts


def sha256_of(parts: str | bytes | Iterable[str | bytes]) -> str:
    """Hexadecimal SHA-256 of one part, or of several one after the other."""
    return _hex(hashlib.sha256(), parts)


def blake2b_of(parts: str | bytes | Iterable[str | bytes]) -> str:
    """Hexadecimal BLAKE2b (16 bytes) of one part, or of several one after the other."""
    return _hex(hashlib.blake2b(digest_size=16), parts)


def _hex(total: Any, parts: str | bytes | Iterable[str | bytes]) -> str:
    for part in [parts] if isinstance(parts, str | bytes) else parts:
        total.update(part.encode() if isinstance(part, str) else part)
    return str(total.hexdigest())


def seed_of(name: object, *, n_bytes: int, signed: bool = False) -> int:
    """An integer of ``n_bytes`` bytes that depends only on ``repr(name)``; seeds generators."""
    content = hashlib.sha256(repr(name).encode()).digest()
    return int.from_bytes(content[:n_bytes], "big", signed=signed)


# ---------------------------------------------------------------- plain data


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and without spaces: equal values give equal text.

    Raises:
        ValueError: The value contains NaN or infinity.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """SHA-256 of plain data, as stores keep it."""
    return sha256_of(canonical_json(value))


def key_of(description: Any) -> str:
    """BLAKE2b of plain data, as caches keep it."""
    return blake2b_of(ascii_json(description))


def ascii_json(value: Any) -> str:
    """As :func:`canonical_json`, in ASCII, with NaN and infinity as Python writes them."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def first_difference(stored: Any, wanted: Any) -> str | None:
    """The first entry in which a stored description differs from the wanted one.

    Returns:
        A clause for a message, ``"model is 'a', expected 'b'"``; None if both are equal.
    """
    if ascii_json(stored) == ascii_json(wanted):
        return None
    if not (isinstance(stored, Mapping) and isinstance(wanted, Mapping)):
        return "it has no description"
    for name in (*wanted, *stored):
        if ascii_json(stored.get(name)) != ascii_json(wanted.get(name)):
            return f"{name} is {stored.get(name)!r:.80}, expected {wanted.get(name)!r:.80}"
    return "its description has other entries"


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it; unknown types and numbers that are not finite become text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value)


# ---------------------------------------------------------------- texts, files, tensors


def digest_of_texts(texts: Iterable[str]) -> str:
    """SHA-256 of texts in their order, each with its length in front."""
    contents = (text.encode(errors="surrogatepass") for text in texts)
    return sha256_of(part for content in contents for part in (f"{len(content)}:", content))


def digest_of_file(name: str | Path) -> str:
    """BLAKE2b of a file's bytes.

    Args:
        name: A path, or ``"package:file"``.

    Raises:
        ConfigError: The file does not exist or cannot be read.
    """
    try:
        return blake2b_of(file_blocks(path_of(str(name))))
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(
            f"the file {str(name)!r} cannot be read: {reason}.",
            hint="Check its path. Results depend on its content.",
        ) from None


def file_blocks(path: Path) -> Iterator[bytes]:
    """A file's bytes in blocks of 1 MiB."""
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            yield block


def digest_of_tensors(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """BLAKE2b of a text and of named tensors: names, types, shapes, bytes."""
    import torch

    total = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
