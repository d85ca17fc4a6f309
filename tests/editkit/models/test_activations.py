from __future__ import annotations

import copy

import pytest
import torch
from transformers.activations import FastGELUActivation, NewGELUActivation

from editkit import LanguageModel
from editkit.models.activations import fuse_gelu
from tests.tiny import tiny


@pytest.mark.parametrize("activation", [NewGELUActivation, FastGELUActivation])
def test_the_kernel_computes_what_transformers_computes(
    activation: type[torch.nn.Module],
) -> None:
    x = torch.linspace(-8, 8, 4001, requires_grad=True)
    modules = torch.nn.Sequential(activation())
    expected = modules(x)
    fuse_gelu(modules)
    actual = modules(x)
    assert type(modules[0]) is not activation
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
    [wanted] = torch.autograd.grad(expected.sum(), x)
    [gradient] = torch.autograd.grad(actual.sum(), x)
    torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-5)


def test_models_in_half_precision_keep_the_passes_of_transformers() -> None:
    model = tiny()
    hf = copy.deepcopy(model.hf)
    for block in hf.transformer.h:
        block.mlp.act = NewGELUActivation()
    half = LanguageModel(copy.deepcopy(hf).bfloat16(), model.tokenizer, name="half")
    assert isinstance(half.hf.transformer.h[0].mlp.act, NewGELUActivation)
    assert not isinstance(
        LanguageModel(hf, model.tokenizer, name="whole").hf.transformer.h[0].mlp.act,
        NewGELUActivation,
    )
