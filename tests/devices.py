"""Two devices that exist only in name, so that a machine without GPUs finds mistakes between them.

Tensors on them are ordinary ones that say where they are; an operation on tensors of different
devices is refused as torch refuses it on GPUs. What this cannot show: memory, speed, and the
arithmetic of real devices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

FIRST, SECOND = "meta:0", "meta:1"
"""Names of a kind of device that this torch knows, but has no code for."""

_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}


class Placed(Tensor):
    """A tensor on a device that exists only in name."""

    raw: Tensor
    place: torch.device
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor, place: torch.device) -> Placed:
        tensor = Tensor._make_wrapper_subclass(
            cls, raw.shape, strides=raw.stride(), storage_offset=raw.storage_offset(),
            dtype=raw.dtype, device="cpu", dispatch_device=True,
        )  # fmt: skip
        tensor.raw, tensor.place = raw, place
        return tensor

    def __repr__(self) -> str:
        return f"Placed({self.raw}, {self.place})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextlib.contextmanager
def pretended_devices() -> Iterator[None]:
    """Inside, tensors can be moved to the two devices and made on them."""
    with _Operations(), _Literals():
        yield


class _Literals(TorchFunctionMode):
    """Lists to tensors and back, which are no operations: by way of the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is torch.tensor and options.get("device") is not None:
            device = options.pop("device")
            return torch.tensor(*args, **options).to(device)
        if func is Tensor.tolist:
            return _raw(args[0]).tolist()
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            where = args[1] if isinstance(args[1], tuple) else (args[1],)
            where = tuple(torch.tensor(w) if isinstance(w, list) else w for w in where)
            args = (args[0], where, *args[2:])
        return func(*args, **options)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if func is torch.ops.prim.device.default:
        return args[0].place
    place = _place(func, args, kwargs)
    options = dict(kwargs)
    if "device" in options:
        place = options["device"] or place
        options["device"] = torch.device("cpu")
    raw_args, raw_options = tree_map(_raw, (args, options))
    result = func(*raw_args, **raw_options)
    if str(func).split(".")[1].endswith("_"):  # in place: the very tensor that was given
        return args[0]
    if place is None or str(place) not in (FIRST, SECOND):
        return result
    return tree_map(lambda t: Placed(t, torch.device(place)) if _bare(t) else t, result)


def _place(func: Any, args: Any, kwargs: Any) -> torch.device | None:
    """Where the operation runs; refused where its tensors are in several places."""
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    if any(t.is_meta and _bare(t) for t in tensors):
        raise RuntimeError(f"{func}: a tensor was made that these devices know nothing of")
    if func in _MOVES:
        return _of(tensors[0])
    if func in _INDEXING:  # an index may come from the CPU
        tensors = [t for t in tensors if t is tensors[0] or _of(t).type != "cpu"]
    places = {_of(t) for t in tensors if t.ndim > 0}
    if len(places) > 1:
        names = " and ".join(sorted(map(str, places)))
        raise RuntimeError(f"{func}: all tensors must be on the same device, found {names}")
    return next(iter(places), _of(tensors[0]) if tensors else None)


def _of(tensor: Tensor) -> torch.device:
    return tensor.place if isinstance(tensor, Placed) else torch.device("cpu")


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, Placed) else value


def _bare(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, Placed)
