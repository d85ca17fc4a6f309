"""The fingerprint of a model's folder: a digest of its tensors, its config and its tokenizer.

The number of shards, the order of the tensors and other files in the folder do not matter. No
machine-learning library is imported.
"""

from __future__ import annotations

import itertools
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from editkit.errors import ModelError
from editkit.storage.digests import blake2b_of, file_blocks, sha256_of

__all__ = [
    "VOLATILE",
    "fingerprint_of_folder",
    "fingerprint_of_gguf",
    "legacy_fingerprint",
    "tensor_digests",
    "weight_files",
]

VOLATILE = frozenset(
    {
        "_name_or_path",
        "_model_name_or_path",
        "_attn_implementation_autoset",
        "_commit_hash",
        "transformers_version",
        "torch_dtype",
        "dtype",
    }
)
"""Entries of a config about where it was stored or how the weights are loaded."""

_VOLATILE_TOKENIZER = frozenset(
    {
        "name_or_path",
        "_name_or_path",
        "is_local",
        "local_files_only",
        "processor_class",
        "special_tokens_map_file",
        "tokenizer_file",
        "transformers_version",
        "backend",
    }
)
_ANY_TOKENIZER = ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_JSON = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_PLAIN = ("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "chat_template.jinja")
_BLOCK = 1 << 20
_SETTLED_NS = 2_000_000_000  # a second write this soon after the first may leave the same stamp

# stamp of a file that this process has read (path, device, inode, size, times) -> digest
_seen: dict[tuple[str, int, int, int, int, int], str] = {}
_lock = threading.Lock()


def fingerprint_of_folder(folder: Path) -> str:
    """Hexadecimal digest of the model in a folder.

    Reads all its files once per process; files that have changed are read again.

    Raises:
        ModelError: The safetensors weights are missing or damaged.
    """
    parts = [f"{name}:{described};" for name, described in sorted(tensor_digests(folder).items())]
    parts.append(f"config:{_canonical(folder / 'config.json', VOLATILE)}")
    for name in _JSON:
        if (folder / name).is_file():
            parts.append(f"{name}:{_canonical(folder / name, _VOLATILE_TOKENIZER)}")
    for name in _PLAIN:
        if (folder / name).is_file():
            parts.append(f"{name}:{_digest(folder / name)}")
    return sha256_of(parts)[:32]


def fingerprint_of_gguf(path: Path) -> str:
    """Hexadecimal digest of a GGUF file's bytes; its name and place do not matter.

    Raises:
        ModelError: The file cannot be read.
    """
    try:
        return _remembered(
            path, lambda path: sha256_of(itertools.chain(["gguf:"], file_blocks(path)))[:32]
        )
    except OSError as error:
        raise ModelError(
            f"{str(path)!r} cannot be read: {error.strerror or type(error).__name__}.",
            hint="Check the file, its owner and its permissions.",
        ) from None


def weight_files(folder: Path) -> list[Path]:
    """A folder's weight files: the single file, those of the index, or else all of them.

    Raises:
        ModelError: There are none, or one in the index is missing.
    """
    index, single = folder / _INDEX, folder / _SINGLE
    if single.is_file():  # transformers prefers it to an index too
        return [single]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            files = [folder / str(name) for name in names]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{index} is damaged: {type(error).__name__}: {error}.",
                hint="Download or copy the model's folder again.",
            ) from None
        missing = [path.name for path in files if not path.is_file()]
        if missing:
            raise ModelError(
                f"{folder} lacks {len(missing)} of its {len(files)} weight files "
                f"({missing[0]} first).",
                hint="Download or copy the model's folder again.",
            )
        return files
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{folder} has no *.safetensors file.",
            hint="Save the model as safetensors; editkit does not read pickled weights.",
        )
    return files


def tensor_digests(folder: Path) -> dict[str, str]:
    """Type, shape and digest of every tensor, by name."""
    tensors: dict[str, str] = {}
    for path in weight_files(folder):
        tensors.update(json.loads(_remembered(path, _digest_tensors)))
    return tensors


def _digest_tensors(path: Path) -> str:
    """JSON with type, shape and digest of a safetensors file's tensors, by name."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > 100_000_000:
                raise ValueError(f"its header has {length} bytes")
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            tensors = {}
            for name, entry in sorted(header.items(), key=lambda e: e[1]["data_offsets"][0]):
                first, last = entry["data_offsets"]
                stream.seek(8 + length + first)
                content = _digest_stream(stream, last - first)
                tensors[name] = f"{entry['dtype']}:{entry['shape']}:{content}"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error) as error:
        raise ModelError(
            f"{path} is damaged or not a safetensors file: {error}.",
            hint="Download or copy the model's folder again.",
        ) from None
    return json.dumps(tensors)


def _digest_stream(stream: BinaryIO, length: int) -> str:
    def blocks() -> Iterator[bytes]:
        left = length
        while left > 0:
            block = stream.read(min(left, _BLOCK))
            if not block:
                raise ValueError("it ends before its tensors do")
            yield block
            left -= len(block)

    return sha256_of(blocks())


def _digest(path: Path) -> str:
    return _remembered(path, lambda path: sha256_of(path.read_bytes()))


def _canonical(path: Path, volatile: frozenset[str]) -> str:
    """Digest of a JSON file's content; spaces, order and volatile entries do not matter."""

    def read(path: Path) -> str:
        content = path.read_bytes()
        try:
            parsed: Any = json.loads(content)
        except ValueError:  # damaged: loading raises an error
            return sha256_of(content)
        if isinstance(parsed, dict):
            parsed = {key: value for key, value in parsed.items() if key not in volatile}
            if parsed.get("tokenizer_class") in _ANY_TOKENIZER:  # names of one class
                del parsed["tokenizer_class"]
        return sha256_of(json.dumps(parsed, sort_keys=True))

    return _remembered(path, read) if path.is_file() else "none"


def _remembered(path: Path, make: Callable[[Path], str]) -> str:
    """The result of a function of a file, computed again only if the file's stamp has changed."""
    before = path.stat()
    key = (
        str(path.resolve()),
        before.st_dev,
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    with _lock:
        if key in _seen:
            return _seen[key]
    made = make(path)
    with _lock:
        if time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > _SETTLED_NS:
            _seen[key] = made
    return made


def legacy_fingerprint(folder: Path) -> str:
    """A folder's fingerprint in earlier versions: a digest of its files and their names."""
    patterns = ("*.safetensors", "config.json", "tokenizer*.json", "vocab.*", "merges.txt")
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})

    def parts() -> Iterator[str | bytes]:
        for path in files:
            yield path.name
            yield from file_blocks(path)

    return blake2b_of(parts())
