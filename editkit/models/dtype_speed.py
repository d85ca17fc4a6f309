"""Whether a CPU is slow in a type of 16 bits: measured, because it depends on its instructions."""

from __future__ import annotations

import functools
import time

__all__ = ["slow_dtype"]

_MUCH = 3.0
_TOKENS, _IN, _OUT, _REPEATS = 64, 512, 1024, 5


def slow_dtype(dtype: str, device: str) -> str | None:
    """A sentence for users if a type is much slower than float32 on this CPU; else None.

    Args:
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: Device of the model; only a CPU is measured, in some tens of milliseconds.
    """
    if dtype == "float32" or device.partition(":")[0] != "cpu":
        return None
    times = slowdown(dtype)
    if times < _MUCH:
        return None
    return f"{dtype} on this CPU takes {times:.0f} times as long as float32; use dtype float32"


@functools.cache
def slowdown(dtype: str) -> float:
    """The time of a layer's forward and backward pass on the CPU, relative to float32."""
    import torch

    def seconds(kind: torch.dtype) -> float:
        weight = torch.full((_OUT, _IN), 0.01, dtype=kind)
        best = float("inf")
        for _ in range(_REPEATS):
            x = torch.full((_TOKENS, _IN), 0.01, dtype=kind, requires_grad=True)
            start = time.perf_counter()
            with torch.enable_grad():
                torch.autograd.grad(torch.nn.functional.linear(x, weight).sum(), x)
            best = min(best, time.perf_counter() - start)
        return best

    return seconds(getattr(torch, dtype)) / seconds(torch.float32)
