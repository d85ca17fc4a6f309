"""The tanh form of GELU in one kernel.

    gelu(x) = x/2 · (1 + tanh(sqrt(2/pi) · (x + 0.044715 x³)))

transformers computes it in eight passes over memory for GPT-2, GPT-J, CodeGen, Phi and BLOOM, and
autograd keeps what each of them reads: in GPT-2 small, an eighth of an edit's time. PyTorch's
kernel gives the same numbers up to rounding, forward and backward.

Not for training weights with Adam: where GELU is zero, the kernel may return 1e-8 instead, and Adam
makes whole steps of gradients that small.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from transformers.activations import GELUTanh

__all__ = ["fused_gelu"]

_IN_PASSES = ("NewGELUActivation", "FastGELUActivation", "BloomGelu")


@contextlib.contextmanager
def fused_gelu(hf: nn.Module) -> Iterator[None]:
    """Inside, a model's modules of that function, which have no weights, are PyTorch's kernel.

    Only in float32 and float64: in fewer bits, the passes round so coarsely that the kernel's
    numbers, although closer to the function, would differ visibly from those of transformers.

    Args:
        hf: The model of transformers.
    """
    fine = all(p.dtype in (torch.float32, torch.float64) for p in hf.parameters())
    replaced = [
        (module, name, child)
        for module in (hf.modules() if fine else ())
        for name, child in module.named_children()
        if type(child).__name__ in _IN_PASSES
    ]
    try:
        for module, name, _ in replaced:
            setattr(module, name, GELUTanh())
        yield
    finally:
        for module, name, child in replaced:
            setattr(module, name, child)
