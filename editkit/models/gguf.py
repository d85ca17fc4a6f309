"""GGUF files: their headers, and what is wrong with a file. Only the header is read.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Weights are dequantised by
transformers (:mod:`editkit.models.dequantised`), which reads a part of the architectures.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import mmap
import re
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from editkit.models.checkpoint import Problem, UnusableFile, first_bytes

__all__ = ["GgufHeader", "GgufTensor", "gguf_header", "gguf_in", "gguf_problems", "is_gguf"]

_VERSIONS = (2, 3)
_AGAIN = "Download or copy it again."
_ORIGINAL = "Use the original checkpoint, in safetensors."
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
            12: "d"}  # fmt: skip
"""Types of single values, as struct names them."""
_STRING, _ARRAY = 8, 9
_PART = re.compile(r"-\d{5}-of-(?!00001)\d{5}$")
_UNREADABLE = (struct.error, ValueError, KeyError, IndexError, OverflowError, RecursionError)


@dataclasses.dataclass(frozen=True)
class GgufTensor:
    """A tensor in a header: the number of its type, its shape as torch has it, its offset."""

    kind: int
    shape: tuple[int, ...]
    offset: int


@dataclasses.dataclass(frozen=True)
class GgufHeader:
    """The header of a GGUF file.

    Attributes:
        metadata: Values by key; an array is represented by its length.
        tensors: By GGUF name, such as ``blk.0.ffn_down.weight``.
        data: Where the tensors' data begins, in bytes.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    data: int

    @property
    def architecture(self) -> str:
        """As llama.cpp names it: ``llama``, ``gpt2``, ``qwen3``."""
        return str(self.metadata.get("general.architecture"))


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that is called ``*.gguf``."""
    return path.suffix.lower() == ".gguf" and path.is_file()


def gguf_in(folder: Path) -> Path:
    """The GGUF file in a folder without safetensors, if there is exactly one; else the folder."""
    try:
        files = [path for path in folder.iterdir() if path.is_file()]
    except OSError:  # whoever reads the folder reports that
        return folder
    ggufs = [path for path in files if path.suffix.lower() == ".gguf"]
    if len(ggufs) != 1 or any(path.suffix == ".safetensors" for path in files):
        return folder
    return ggufs[0]


def gguf_header(path: Path) -> GgufHeader:
    """The header of a GGUF file, checked against the file's size.

    Raises:
        UnusableFile: It is damaged, truncated, or something else.
    """
    start = first_bytes(path, 24)
    if start[:4] != b"GGUF":
        raise UnusableFile("is not a GGUF file, whatever its name", _AGAIN)
    if len(start) < 24:
        raise UnusableFile(f"is truncated: it has {len(start)} bytes", _AGAIN)
    version, n_tensors, n_entries = struct.unpack("<IQQ", start[4:])
    if version not in _VERSIONS:
        big = int.from_bytes(start[4:8], "big") in _VERSIONS
        what = "big-endian" if big else f"version {version} of the format, expected 2 or 3"
        raise UnusableFile(f"is {what}", "Convert it again with a current llama.cpp.")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as all_:
        try:
            reader = _Reader(all_, 24)
            metadata = {reader.text(): reader.value() for _ in range(n_entries)}
            tensors = dict(reader.tensor() for _ in range(n_tensors))
            alignment = int(metadata.get("general.alignment", 32))
            data = -(-reader.position // alignment) * alignment
            ends = [tensor.offset + _bytes_of(tensor) for tensor in tensors.values()]
        except (*_UNREADABLE, TypeError, ZeroDivisionError):
            raise UnusableFile(
                "is truncated or damaged: its header cannot be read", _AGAIN
            ) from None
        size, end = len(all_), data + max(ends, default=0)
    if size < end:
        raise UnusableFile(
            f"is truncated: it has {size:,} bytes, and its header says {end:,}", _AGAIN
        )
    return GgufHeader(metadata, tensors, data)


class _Reader:
    """Reads the values of a header one after the other; all numbers are little-endian."""

    def __init__(self, content: mmap.mmap, position: int) -> None:
        self.content = content
        self.position = position

    def number(self, form: str) -> Any:
        [value] = struct.unpack_from(f"<{form}", self.content, self.position)
        self.position += struct.calcsize(form)
        return value

    def text(self) -> str:
        length = self.number("Q")
        end = self.position + length
        if end > len(self.content):
            raise ValueError
        content, self.position = self.content[self.position : end], end
        return content.decode("utf-8")

    def value(self) -> Any:
        return self._value(self.number("I"))

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_FORMATS[kind])
        inner, length = self.number("I"), self.number("Q")
        if inner in _FORMATS:
            self.position += length * struct.calcsize(_FORMATS[inner])
        else:
            for _ in range(length):
                if inner == _STRING:  # a vocabulary: skipped, not decoded
                    n_bytes = self.number("Q")  # which moves the position itself
                    self.position += n_bytes
                else:
                    self._value(inner)
        if self.position > len(self.content):
            raise ValueError
        return length

    def tensor(self) -> tuple[str, GgufTensor]:
        name, n_sides = self.text(), self.number("I")
        sides = [self.number("Q") for _ in range(n_sides)]  # the fastest-moving one first
        return name, GgufTensor(self.number("I"), tuple(reversed(sides)), self.number("Q"))


def _bytes_of(tensor: GgufTensor) -> int:
    """The size of a tensor in the file; 0 if the package gguf is missing or too old to know."""
    if importlib.util.find_spec("gguf") is None:
        return 0
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        values, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
    except (ValueError, KeyError):  # a newer type; transformers refuses it
        return 0
    return int(prod(tensor.shape) // values * size)


def gguf_problems(path: Path, shown: str) -> list[Problem]:
    """What the header of a GGUF file and the installed packages show; the most basic first.

    Args:
        path: The file.
        shown: The model as the user typed it.
    """
    model = f"model {shown!r}"
    try:
        header = gguf_header(path)
    except UnusableFile as error:
        return [Problem("model", f"{path.name} of {model} {error.reason}.", error.hint)]
    parts = header.metadata.get("split.count", 0)
    if _PART.search(path.stem) or (isinstance(parts, int) and parts > 1):
        return [
            Problem(
                "model",
                f"{path.name} is only one part of {model}, which is split over several GGUF files.",
                "Join them with 'llama-gguf-split --merge FIRST-PART OUTPUT.gguf', and give that "
                "file.",
            )
        ]
    if importlib.util.find_spec("gguf") is None:
        return [
            Problem(
                "model",
                f"{path.name} of {model} is a GGUF file; to read it, transformers needs the "
                "package gguf, which is not installed.",
                "Run: pip install 'editkit[gguf]'",
            )
        ]
    problems = []
    if not _is_readable(header.architecture):
        problems.append(
            Problem(
                "config",
                f"{model} is a GGUF file of architecture {header.architecture!r}, which "
                "transformers cannot dequantise.",
                _ORIGINAL,
            )
        )
    if not header.metadata.get("tokenizer.ggml.tokens"):
        problems.append(
            Problem(
                "tokenizer",
                f"{path.name} of {model} has no tokenizer.",
                f"Use a GGUF file with one. {_ORIGINAL}",
            )
        )
    return problems


def _is_readable(architecture: str) -> bool:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known = {name.replace("_", "").replace("-", "") for name in GGUF_SUPPORTED_ARCHITECTURES}
    return architecture.replace("_", "").replace("-", "") in known - {"general", "tokenizer"}
