"""Copying a model's folder with new values for some of its tensors, without loading the model.

Shards are copied as bytes, and new values are written over the old ones: names, order, types and
header entries stay as they are. Weights that the model is not loaded from (pickles, ONNX, GGUF,
...) are left out, since they would still be the old ones.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.models.checkpoint import read_json
from editkit.models.fingerprints import tensor_digests, weight_files
from editkit.progress import counting
from editkit.storage.digests import digest_of_tensors

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FolderContent", "NewValues", "content_of", "copy_model", "differences"]

NewValues = Mapping[str, "Callable[[Tensor], Tensor]"]
"""From the name of a stored tensor to a function of its values, in the stored layout and type."""

_INDEX = "model.safetensors.index.json"
_WEIGHTS = (
    ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".ckpt",
    ".ckpt.index", ".ckpt.meta", ".pkl", ".pickle", ".h5", ".h5.index.json", ".keras", ".msgpack",
    ".msgpack.index.json", ".ot", ".gguf", ".ggml", ".onnx", ".onnx_data", ".onnx.data", ".tflite",
    ".task", ".litertlm", ".llamafile", ".mlmodel", ".npz", ".npy", ".nemo", ".engine", ".xml.bin",
    ".zip", ".tar", ".tar.gz", ".tgz", ".7z",
)  # fmt: skip
_LARGEST = 100 << 20  # bytes: tokenizers are smaller, weights in a format unknown to us are not
_NARROW = {"BF16": 2, "F16": 2}
_TYPE_ENTRIES = ("dtype", "torch_dtype")


@dataclasses.dataclass(frozen=True)
class FolderContent:
    """The files of a model's folder, as paths relative to it.

    Attributes:
        weights: The files that the model's weights are loaded from.
        others: Config, tokenizer, licence, and whatever else belongs to the model.
        left_out: Other weights, folders that hold such, hidden folders, and broken links.
    """

    weights: tuple[Path, ...]
    others: tuple[Path, ...]
    left_out: tuple[Path, ...]

    def size(self, folder: Path) -> int:
        """Bytes of all files but those left out."""
        return sum((folder / path).stat().st_size for path in (*self.weights, *self.others))


def content_of(folder: Path) -> FolderContent:
    """Which files of a model's folder belong to the model that transformers loads.

    Raises:
        ModelError: The weights are missing.
    """
    weights = {path.relative_to(folder) for path in weight_files(folder)}
    own = {*weights, *([Path(_INDEX)] if Path("model.safetensors") not in weights else [])}
    others: list[Path] = []
    left_out: list[Path] = []
    for path in sorted(folder.iterdir()):
        name = path.relative_to(folder)
        if name in weights:
            continue
        if not path.exists() or not (path.is_file() or path.is_dir()):
            left_out.append(name)  # a broken link, or a device
        elif path.is_dir():
            inner = [each for each in path.rglob("*") if each.is_file()]
            if path.name.startswith(".") or any(_holds_weights(each) for each in inner):
                left_out.append(name)
            else:
                others += sorted(each.relative_to(folder) for each in inner)
        elif name in own or not _holds_weights(path):
            others.append(name)
        else:
            left_out.append(name)
    return FolderContent(tuple(sorted(weights)), tuple(others), tuple(left_out))


def _holds_weights(path: Path) -> bool:
    return path.name.lower().endswith(_WEIGHTS) or path.stat().st_size > _LARGEST


def copy_model(
    source: Path, content: FolderContent, target: Path, new: NewValues, *, widen: bool = False
) -> dict[str, str]:
    """Copy a model with new values for some tensors.

    Args:
        source: The model's folder.
        content: Its files.
        target: An existing folder without files.
        new: The new values.
        widen: Whether to store bfloat16 and float16 tensors as float32.

    Returns:
        A digest of each new value, for :func:`differences`.

    Raises:
        OSError: A file cannot be read or written.
    """
    digests: dict[str, str] = {}
    with counting("writing the model", len(content.weights), unit="file") as advance:
        for path in content.weights:
            if widen:
                digests |= _write_wide(source / path, target / path, new)
            else:
                _copy(source / path, target / path)
                digests |= _overwrite(target / path, new)
            advance(1)
    for path in content.others:
        _copy(source / path, target / path)
    if widen:
        _note_width(target, content)
    return digests


def _copy(source: Path, target: Path) -> None:
    """Copy a file; permissions come from the umask.

    File systems that can share blocks between files (btrfs, XFS) do so until one is changed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with source.open("rb") as read, target.open("wb") as written:  # reads through links
            left = os.fstat(read.fileno()).st_size
            while left and (n := os.copy_file_range(read.fileno(), written.fileno(), left)):
                left -= n
    except (AttributeError, OSError):  # not on this system, not between these file systems, ...
        left = 1
    if left:
        shutil.copyfile(source, target)


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where a safetensors file's data begins, and its header."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return 8 + length, dict(json.loads(stream.read(length)))


def _bytes_of(tensor: Tensor) -> bytes | memoryview:
    import torch

    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def _overwrite(path: Path, new: NewValues) -> dict[str, str]:
    """Write new values into a copied file; their digests."""
    from safetensors import safe_open

    start, header = _header(path)
    digests = {}
    for name in sorted(header.keys() & new.keys()):
        with safe_open(path, framework="pt") as stream:  # closed before the file is written
            old = stream.get_tensor(name).clone()
        values = new[name](old)
        if values.dtype != old.dtype or values.shape != old.shape:
            raise AssertionError(f"{name} would change its type or shape")
        with path.open("rb+") as out:
            out.seek(start + header[name]["data_offsets"][0])
            out.write(_bytes_of(values))
        digests[name] = digest_of_tensors({name: values})
    return digests


def _wide(tensor: Tensor) -> Tensor:
    import torch

    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _write_wide(source: Path, target: Path, new: NewValues) -> dict[str, str]:
    """Write a shard with float32 in place of bfloat16 and float16, tensor by tensor."""
    from safetensors import safe_open

    _, header = _header(source)
    metadata = header.pop("__metadata__", None)
    entries, end = {}, 0
    digests = {}
    in_order = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    for name, entry in in_order:
        first, last = entry["data_offsets"]
        narrow = entry["dtype"] in _NARROW
        size = (last - first) * (2 if narrow else 1)
        dtype = "F32" if narrow else entry["dtype"]
        entries[name] = {**entry, "dtype": dtype, "data_offsets": [end, end + size]}
        end += size
    described = {**({} if metadata is None else {"__metadata__": metadata}), **entries}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8 bytes
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as out, safe_open(source, framework="pt") as stream:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, _ in in_order:
            values = _wide(stream.get_tensor(name))
            if name in new:
                values = new[name](values)
                digests[name] = digest_of_tensors({name: values})
            out.write(_bytes_of(values))
    return digests


def _note_width(folder: Path, content: FolderContent) -> None:
    """Let config and index describe weights in float32."""
    config = folder / "config.json"
    _write_json(config, _with_float32(read_json(config)))
    if (index := folder / _INDEX).is_file() and Path(_INDEX) in content.others:
        described = read_json(index)
        ends = []
        for path in content.weights:
            entries = _header(folder / path)[1].items()
            ends.append(max(e["data_offsets"][1] for n, e in entries if n != "__metadata__"))
        metadata = {**(described.get("metadata") or {}), "total_size": sum(ends)}
        _write_json(index, {**described, "metadata": metadata})


def _with_float32(config: dict[str, Any]) -> dict[str, Any]:
    """A config with its types, and those of its parts, replaced."""
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if key in _TYPE_ENTRIES and value in ("bfloat16", "float16"):
            changed[key] = "float32"
        else:
            changed[key] = _with_float32(value) if isinstance(value, dict) else value
    return changed


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def differences(
    source: Path,
    target: Path,
    content: FolderContent,
    digests: Mapping[str, str],
    *,
    widen: bool = False,
) -> Iterator[str]:
    """What is wrong with a copy that :func:`copy_model` wrote, read from the disk again.

    Every tensor must be the source's, except for those with new values; names, shapes and header
    entries must be the source's, too.

    Args:
        source: The model's folder.
        target: The copy.
        content: The files of the source.
        digests: What :func:`copy_model` returned.
        widen: As for :func:`copy_model`.
    """
    import torch
    from safetensors import safe_open

    old, now = tensor_digests(source), tensor_digests(target)
    if old.keys() != now.keys():
        yield f"one of both lacks {', '.join(sorted(old.keys() ^ now.keys()))}"
        return
    for path in content.weights:
        with (
            safe_open(source / path, framework="pt") as before,
            safe_open(target / path, framework="pt") as after,
        ):
            if before.metadata() != after.metadata():
                yield f"the metadata of {path} differ"
            for name in before.keys():  # noqa: SIM118 - not a mapping
                if name in digests:
                    same = digest_of_tensors({name: after.get_tensor(name)}) == digests[name]
                elif old[name] == now[name]:
                    same = True
                else:
                    values, written = before.get_tensor(name), after.get_tensor(name)
                    wanted = _wide(values) if widen else values
                    same = written.dtype == wanted.dtype and torch.equal(written, wanted)
                if not same:
                    yield f"{name} has wrong values"
