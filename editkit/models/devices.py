"""The devices and types that a model may be loaded on, checked before its weights are read."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from editkit.errors import ModelError

__all__ = ["DTYPES", "check_device", "check_device_map", "check_dtype"]

DTYPES = ("float32", "bfloat16", "float16")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_TYPES = ("cpu", "cuda", "mps", "xpu")


def check_dtype(dtype: object) -> None:
    """Refuse a type of weights that models are not loaded in.

    Raises:
        ModelError: It is not one of :data:`DTYPES`.
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ModelError(f"dtype is {dtype!r}.", hint=f"Use one of: {', '.join(DTYPES)}.")


def check_device(device: object) -> None:
    """Refuse a device that does not exist, or that no model can be edited on.

    Args:
        device: As torch names it (``cuda:1``), or the number of a GPU.

    Raises:
        ModelError: It is not there, or is of another kind.
    """
    import torch

    known = "Use cpu, cuda, cuda:1, mps or xpu."
    if isinstance(device, bool) or not isinstance(device, str | int | torch.device):
        raise ModelError(f"device is {device!r}, expected a text.", hint=known)
    try:
        place = torch.device(f"cuda:{device}" if isinstance(device, int) else device)
    except RuntimeError:
        raise ModelError(f"device is {device!r}, which is not a device.", hint=known) from None
    if place.type == "meta":
        raise ModelError(
            f"device is {str(device)!r}: there weights have shapes, but no values.", hint=known
        )
    if place.type not in _TYPES:
        raise ModelError(
            f"device is {str(device)!r}, of a kind that editkit does not support.", hint=known
        )
    if place.type == "cpu":
        if place.index not in (None, 0):
            raise ModelError(f"device is {str(device)!r}, but there is one cpu.", hint="Use cpu.")
        return
    module = {"cuda": torch.cuda, "mps": torch.mps, "xpu": torch.xpu}[place.type]
    available = torch.backends.mps.is_available() if place.type == "mps" else module.is_available()
    if not available:
        what = "GPU" if place.type == "cuda" else f"{place.type} device"
        raise ModelError(f"device is {str(device)!r}, but torch sees no {what}.", hint="Use cpu.")
    count = module.device_count()
    if place.index is not None and place.index >= count:
        raise ModelError(
            f"device is {str(device)!r}, but torch sees {count} of them, numbered from 0.",
            hint=f"Use {place.type}:0" + (f" to {place.type}:{count - 1}." if count > 1 else "."),
        )


def check_device_map(device_map: str | Mapping[str, int | str], device: str) -> None:
    """Refuse a map that cannot be, or that leaves weights out of memory.

    Raises:
        ModelError: It is given beside a device, is unknown, or accelerate is not installed.
    """
    if device != "cpu":
        raise ModelError(
            f"device {device!r} and device_map {device_map!r} are both given.",
            hint="Give device for one device, or device_map for several.",
        )
    if isinstance(device_map, str):
        if device_map not in DEVICE_MAPS:
            raise ModelError(
                f"device_map is {device_map!r}, expected {', '.join(DEVICE_MAPS)}, or devices by "
                "name of module.",
                hint="For one device set device instead.",
            )
    else:
        for part, place in device_map.items():
            if place in ("disk", "meta"):
                raise ModelError(
                    f"device_map puts {part or 'the model'!r} on {place!r}: an edit needs its "
                    "weights in memory.",
                    hint="Use cpu or a GPU.",
                )
            check_device(place)
    if importlib.util.find_spec("accelerate") is None:
        raise ModelError(
            "device_map needs the package accelerate, which is not installed.",
            hint="Run: pip install 'editkit[large]'",
        )
