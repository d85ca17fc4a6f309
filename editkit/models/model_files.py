"""Reading a model's files: JSON, the index of the weights, and the headers of safetensors.

Nothing here reads a weight, or loads a machine-learning library.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "INDEX",
    "SAVE_AGAIN",
    "WEIGHTS",
    "TensorHeader",
    "UnusableFile",
    "check_present",
    "header_of",
    "headers_of",
    "read_json",
    "shards_of",
]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LFS = b"version https://git-lfs.github.com/spec/"
_LARGEST_HEADER = 100_000_000  # bytes, as the safetensors library has it
_AGAIN = "Download or copy it again."
SAVE_AGAIN = (
    "load it once with transformers on a machine that you trust, and save_pretrained it, with its "
    "tokenizer, to a new folder"
)


@dataclasses.dataclass(frozen=True)
class TensorHeader:
    """What a safetensors file states about one tensor: ``F32`` and the like, and its shape."""

    dtype: str
    shape: tuple[int, ...]


class UnusableFile(Exception):
    """A file that cannot be read, with the reason and a hint."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def headers_of(folder: Path) -> dict[str, TensorHeader]:
    """Type and shape of every tensor of a checkpoint that has no :func:`problems_of`."""
    headers: dict[str, TensorHeader] = {}
    for file in shards_of(folder)[0]:
        headers.update(header_of(folder / file))
    return headers


def shards_of(folder: Path) -> tuple[list[str], list[str]]:
    """The files that are read, and the weights that the index names; one file has no index."""
    if (folder / WEIGHTS).exists() or (folder / WEIGHTS).is_symlink():
        return [WEIGHTS], []
    index = read_json(folder / INDEX)
    placed = index.get("weight_map")
    if (
        not isinstance(placed, Mapping)
        or not placed
        or not all(isinstance(file, str) and Path(file).name == file for file in placed.values())
    ):
        raise UnusableFile("has no weight_map from weights to files", _AGAIN)
    return sorted(set(placed.values())), list(placed)


def header_of(path: Path) -> dict[str, TensorHeader]:
    """The header of a safetensors file, checked against the file's size."""
    start, size = _start(path, 8), path.stat().st_size
    n = int.from_bytes(start, "little")
    if size < 8:
        raise UnusableFile(f"is truncated: it has {size} bytes", _AGAIN)
    if n > min(size - 8, _LARGEST_HEADER):
        if start.startswith((b"PK", b"\x80")):
            raise UnusableFile(
                "is a pickle by another name, not safetensors", f"Convert it: {SAVE_AGAIN}."
            )
        raise UnusableFile("is truncated, or is not a safetensors file", _AGAIN)
    try:
        content = json.loads(_start(path, 8 + n)[8:])
        entries = {name: entry for name, entry in content.items() if name != "__metadata__"}
        headers = {
            name: TensorHeader(str(entry["dtype"]), tuple(int(side) for side in entry["shape"]))
            for name, entry in entries.items()
        }
        end = 8 + n + max((int(e["data_offsets"][1]) for e in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise UnusableFile("is damaged: its header cannot be read", _AGAIN) from None
    if size != end:
        what = "truncated" if size < end else "damaged"
        raise UnusableFile(f"is {what}: it has {size:,} bytes, and its header says {end:,}", _AGAIN)
    return headers


def check_present(path: Path) -> None:
    """Refuse a file that is not there, may not be read, or only stands for one.

    Raises:
        UnusableFile: It is.
    """
    _start(path, len(_LFS))


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object."""
    check_present(path)
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError:
        raise UnusableFile("is not JSON: it is not UTF-8", _AGAIN) from None
    except RecursionError:
        raise UnusableFile("is nested too deeply", _AGAIN) from None
    except ValueError as error:
        raise UnusableFile(f"is not JSON: {error}", _AGAIN) from None
    if not isinstance(content, dict):
        raise UnusableFile(f"holds {type(content).__name__}, expected an object", _AGAIN)
    return content


def _start(path: Path, n: int) -> bytes:
    """The first ``n`` bytes."""
    try:
        with path.open("rb") as stream:
            start = stream.read(n)
    except FileNotFoundError:
        raise UnusableFile(
            "is a link to a file that does not exist", "Download it again."
        ) from None
    except IsADirectoryError:
        raise UnusableFile("is a folder, expected a file", _AGAIN) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnusableFile(
            f"cannot be read: {reason}", "Check its owner and permissions."
        ) from None
    if start.startswith(_LFS[:n]):
        raise _lfs()
    return start


def _lfs() -> UnusableFile:
    return UnusableFile(
        "is a pointer of git-lfs, not the file itself", "Run 'git lfs pull' in the folder."
    )
