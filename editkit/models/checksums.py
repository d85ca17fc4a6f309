"""Checksums of a model in memory, and the identities that are built on them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Mapping

import torch
from torch import Tensor, nn

from editkit.errors import ModelError
from editkit.storage.digests import blake2b_of

__all__ = [
    "Checksums",
    "chained",
    "check_finite",
    "checksum",
    "checksums_of",
    "is_finite",
    "lineage",
    "tensors_of",
]

Checksums = Mapping[str, bytes]
"""Checksums by name of the tensor."""

_SWITCHES = " (adapters)"
_STRUCTURE = "(modules)"  # cannot be a tensor's name
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_MOVING = ("dynamic", "longrope")  # rotary embeddings that depend on the length of the text

_CHUNK = 2**16  # words of 8 bytes: fits into the processor's cache, so memory is read once
_COLUMNS = 256
_SMALL = 2**15  # bytes; hashing fewer is faster than summing them


def checksum(tensor: Tensor) -> bytes:
    """The checksum of a tensor's type, shape and bytes, from sums of rows and columns of blocks.

    It detects accidents, not forgery: one changed entry, or two that swapped places, always change
    it. It takes about 0.12 s per GB on one core.
    """
    digest = hashlib.blake2b(f"{tensor.dtype}:{tuple(tensor.shape)};".encode(), digest_size=16)
    if tensor.is_meta or not tensor.numel():
        return digest.digest()
    flat = tensor.detach().reshape(-1)
    if flat.stride(0) != 1 or flat.storage_offset() * flat.element_size() % 8:
        flat = torch.cat([flat])  # a copy
    raw = flat.view(torch.uint8)
    if len(raw) <= _SMALL:
        digest.update(raw.cpu().numpy().data)
        return digest.digest()
    n_words = raw.numel() // 8
    words = raw[: 8 * n_words].view(torch.int64)
    parts: list[Tensor] = []
    for start in range(0, n_words, _CHUNK):
        chunk = words[start : start + _CHUNK]
        n_rows = len(chunk) // _COLUMNS
        block = chunk[: n_rows * _COLUMNS].view(n_rows, _COLUMNS)
        parts += [block.sum(dim=0), block.sum(dim=1), chunk[n_rows * _COLUMNS :]]
    if parts:
        digest.update(torch.cat(parts).cpu().numpy().data)
    digest.update(raw[8 * n_words :].cpu().numpy().tobytes())
    return digest.digest()


def is_finite(tensor: Tensor) -> bool:
    """Whether every entry is finite, in one pass without a copy."""
    if tensor.is_meta or not tensor.numel() or not tensor.is_floating_point():
        return True
    try:
        least, most = torch.aminmax(tensor.detach())
    except (RuntimeError, NotImplementedError):  # 8-bit types have no minimum
        return bool(torch.isfinite(tensor.detach().float()).all())
    return bool(torch.isfinite(least) & torch.isfinite(most))


# ---------------------------------------------------------------- of whole models


def tensors_of(hf: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all their names, without buffers that forward passes write."""
    rope = getattr(getattr(hf, "config", None), "rope_parameters", None)
    moving = isinstance(rope, Mapping) and rope.get("rope_type") in _MOVING
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}

    def collect(module: nn.Module, path: str) -> None:
        # What named_parameters and named_buffers give, in a quarter of the time.
        for name, parameter in module._parameters.items():
            if parameter is not None:
                parameters[path + name] = parameter
        for name, buffer in module._buffers.items():
            if buffer is not None and not (moving and name.endswith("inv_freq")):
                buffers[path + name] = buffer
        for name, child in module._modules.items():
            if child is not None:
                collect(child, f"{path}{name}.")

    collect(hf, "")
    return {**parameters, **buffers}


def switches_of(hf: nn.Module) -> dict[str, bytes]:
    """The settings of peft adapters: which are active, their scale, whether they are disabled."""
    return {
        f"{name}{_SWITCHES}": repr(
            (module.active_adapters, module.scaling, getattr(module, "disable_adapters", None))
        ).encode()
        for name, module in hf.named_modules()
        if hasattr(module, "active_adapters") and hasattr(module, "scaling")
    }


def structure_of(hf: nn.Module) -> dict[str, bytes]:
    """A digest of the modules' types and settings (an epsilon, a dropout rate)."""
    digest = hashlib.blake2b(digest_size=16)
    for name, module in hf.named_modules(remove_duplicate=False):
        settings = _ADDRESS.sub("", module.extra_repr())
        digest.update(f"{name}:{type(module).__qualname__}({settings});".encode())
    return {_STRUCTURE: digest.digest()}


def checksums_of(hf: nn.Module) -> Checksums:
    """Checksums of all weights, of the modules' structure, and of adapters.

    Each tensor is read once, even if it has several names.
    """
    by_id: dict[int, bytes] = {}
    checksums = {}
    for name, tensor in tensors_of(hf).items():
        if id(tensor) not in by_id:
            by_id[id(tensor)] = checksum(tensor)
        checksums[name] = by_id[id(tensor)]
    return {**checksums, **structure_of(hf), **switches_of(hf)}


def marks_of(hf: nn.Module) -> dict[str, tuple[int, int, int]]:
    """Marks that change when a tensor is replaced or written to, except through ``.data``."""
    return {n: (id(t), t.data_ptr(), version_of(t)) for n, t in tensors_of(hf).items()}


def version_of(tensor: Tensor) -> int:
    """Torch's count of writes to a tensor; 0 for tensors of inference mode."""
    return 0 if tensor.is_inference() else tensor._version


def total_of(checksums: Checksums) -> bytes:
    """One digest of all checksums."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(checksums):
        digest.update(f"{name}=".encode() + checksums[name] + b";")
    return digest.digest()


def check_finite(hf: nn.Module, names: Container[str], model: str) -> None:
    """Refuse weights that are not finite.

    Args:
        hf: The network.
        names: Names of the tensors to check.
        model: The model, for messages.

    Raises:
        ModelError: A weight has NaN or infinity.
    """
    tensors = {name: tensor for name, tensor in tensors_of(hf).items() if name in names}
    bad = [n for n, t in tensors.items() if isinstance(t, nn.Parameter) and not is_finite(t)]
    if bad:
        raise ModelError(
            f"{len(bad)} of {len(tensors)} weights of {model!r} hold NaN or infinity "
            f"({bad[0]} first).",
            hint="Download or save the model again. In float16, large values overflow: use "
            "bfloat16 or float32.",
        )


# ---------------------------------------------------------------- identities


_parents: dict[str, tuple[str, str]] = {}  # identity -> the identity before its last edit, the edit


def chained(identity: str, edit: str) -> str:
    """The identity of a model with one more edit.

    Args:
        identity: The model's identity without the edit.
        edit: Digest of the edit.
    """
    edited = blake2b_of(f"{identity}+{edit}")
    _parents[edited] = identity, edit
    return edited


def lineage(identity: str) -> tuple[str, ...]:
    """The base model's fingerprint and the digests of its edits, in order.

    Empty for a model without edits and for an identity that is new to this process.
    """
    edits: list[str] = []
    while identity in _parents:
        identity, edit = _parents[identity]
        edits.append(edit)
    return (identity, *reversed(edits)) if edits else ()
