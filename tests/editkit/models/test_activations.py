from __future__ import annotations

import pytest
import torch
from transformers.activations import FastGELUActivation, NewGELUActivation

from editkit.models.activations import fused_gelu


@pytest.mark.parametrize("activation", [NewGELUActivation, FastGELUActivation])
def test_the_kernel_computes_what_transformers_computes(
    activation: type[torch.nn.Module],
) -> None:
    x = torch.linspace(-8, 8, 4001, requires_grad=True)
    modules = torch.nn.Sequential(activation())
    own = modules[0]
    expected = modules(x)
    with fused_gelu(modules):
        assert type(modules[0]) is not activation
        actual = modules(x)
    assert modules[0] is own
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
    [wanted] = torch.autograd.grad(expected.sum(), x)
    [gradient] = torch.autograd.grad(actual.sum(), x)
    torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-5)


def test_models_in_half_precision_keep_the_passes_of_transformers() -> None:
    modules = torch.nn.Sequential(NewGELUActivation(), torch.nn.Linear(2, 2).bfloat16())
    with fused_gelu(modules):
        assert isinstance(modules[0], NewGELUActivation)
