"""The tanh form of GELU in one kernel.

    gelu(x) = x/2 · (1 + tanh(sqrt(2/pi) · (x + 0.044715 x³)))

transformers computes it in eight passes over memory for GPT-2, GPT-J, CodeGen, Phi and BLOOM, and
autograd keeps what each of them reads: in GPT-2 small, an eighth of an edit's time. PyTorch's
kernel gives the same numbers up to rounding, forward and backward.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.activations import GELUTanh

__all__ = ["fuse_gelu"]

_IN_PASSES = ("NewGELUActivation", "FastGELUActivation", "BloomGelu")


def fuse_gelu(hf: nn.Module) -> None:
    """Replace a model's modules of that function, which have no weights, by PyTorch's kernel.

    Only in float32 and float64: in fewer bits, the passes round so coarsely that the kernel's
    numbers, although closer to the function, would differ visibly from those of transformers.
    """
    if any(p.dtype not in (torch.float32, torch.float64) for p in hf.parameters()):
        return
    for module in list(hf.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ in _IN_PASSES:
                setattr(module, name, GELUTanh())
