"""Drift on unrelated prompts, and the size of a change, against their definitions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from editkit import Dense, LanguageModel, LowRank, PromptContext, WeightDelta, applied
from editkit.patches.content import PatchContent
from editkit.patches.drift import movements, unrelated_prompts
from editkit.patches.files import read_patch, write_patch
from editkit.patches.measuring import measured, sizes_of
from tests.editkit.editing.test_deltas import delta_for
from tests.editkit.patches.test_asking import QUESTIONS
from tests.tiny import tiny
from tests.tokenizers import model_of


def log_p(model: LanguageModel, prompt: str) -> torch.Tensor:
    [encoding] = model.read([prompt])
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor([encoding.ids])).logits[0, -1]
    return torch.log_softmax(logits.double(), dim=-1)


def test_the_prompts_are_many_distinct_and_short() -> None:
    prompts = unrelated_prompts()
    assert len(prompts) == len(set(prompts)) == 32
    assert all(prompt == prompt.strip() and prompt for prompt in prompts)
    assert max(map(len, prompts)) < 60


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_movements_are_as_defined(name: str) -> None:
    model = tiny(name, begin=name == "llama", context_length=128)
    context = PromptContext(("Rome is in Seattle.",), before_prompt="\n")
    tied = Dense(torch.randn(400, 32, generator=torch.Generator().manual_seed(3)) / 4)
    deltas = [
        delta_for(model, 1),
        delta_for(model, kinds=""),
        dataclasses.replace(delta_for(model, 2, kinds="l"), context=context),
        dataclasses.replace(
            delta_for(model, kinds=""),
            changes={} if name == "llama" else {"transformer.wte.weight": tied},
        ),
    ]
    moved = movements(model, deltas)
    assert [len(some) for some in moved] == [32] * len(deltas)
    for delta, some in zip(deltas, moved, strict=True):
        texts = "" if delta.context is None else delta.context.before("")
        for movement in some[::5]:
            before = log_p(model, movement.prompt)
            with applied(model, delta.without_context()):
                after = log_p(model, f"{texts}{movement.prompt}")
            expected = float((before.exp() * (before - after)).sum())
            assert movement.divergence == pytest.approx(expected, rel=1e-3, abs=1e-5)
            tops = [int(each.argmax()) for each in (before, after)]
            decoded = [model.tokenizer.decode([token]) for token in tops]
            assert [movement.before, movement.after] == decoded
    assert max(movement.divergence for movement in moved[0]) > 0.01
    assert max(movement.divergence for movement in moved[1]) < 1e-5


def test_prompts_that_a_model_cannot_read_are_left_out() -> None:
    model = tiny(context_length=14)
    [some] = movements(model, [delta_for(model, 1)])
    assert 0 < len(some) < 32
    assert all(len(model.read([each.prompt])[0]) <= 14 for each in some)
    other = model_of("metaspace")  # knows few characters
    [some] = movements(other, [delta_for(other, 1)])
    assert len(some) < 32


def test_a_broken_model_moves_by_a_finite_number() -> None:
    model = tiny()
    name = f"{model.path(1, 'mlp_out')}.weight"
    values = torch.full(tuple(model.hf.get_parameter(name).shape), 3e38)
    broken = dataclasses.replace(delta_for(model, kinds=""), changes={name: Dense(values)})
    [some] = movements(model, [broken])
    assert {movement.divergence for movement in some} == {100.0}


def representable(model: LanguageModel, name: str) -> torch.Tensor:
    """Rounds a weight to bfloat16 in place, as if its checkpoint were of that type."""
    weight = model.hf.get_parameter(name)
    with torch.no_grad():
        weight.copy_(weight.bfloat16().float())
    return weight.detach()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_sizes_are_norms_and_what_rounding_leaves(name: str) -> None:
    model = tiny(name)
    parameter = f"{model.path(1, 'mlp_out')}.weight"
    weight = representable(model, parameter)
    (d, h) = weight.shape if name == "gpt2" else weight.T.shape
    ones = torch.ones(d, 1), torch.ones(1, h)

    def delta(scale: float) -> WeightDelta:
        change = LowRank(ones[0] * scale, ones[1])
        none = delta_for(model, kinds="")
        return dataclasses.replace(none, changes={parameter: change})

    tiny_step, large = sizes_of(model, [delta(1e-9), delta(0.5)])
    [own] = large.parameters
    assert (own.name, own.norm) == (parameter, pytest.approx(0.5 * (d * h) ** 0.5))
    assert own.weight_norm == pytest.approx(float(weight.norm()))
    assert large.kept_in_bfloat16 == pytest.approx(1.0, abs=0.01)
    assert large.rounded_away == 0.0
    assert tiny_step.kept_in_bfloat16 < 0.05  # the checkpoint's numbers are far apart
    assert tiny_step.rounded_away > 0.5  # in float32, too


def test_entries_that_round_either_way_keep_the_change_on_average() -> None:
    model = tiny()
    parameter = f"{model.path(1, 'mlp_out')}.weight"
    weight = model.hf.get_parameter(parameter).detach()
    change = Dense(weight.abs() * 2**-9)  # half of bfloat16's step, or less
    [size] = sizes_of(
        model, [dataclasses.replace(delta_for(model, kinds=""), changes={parameter: change})]
    )
    assert size.kept_in_bfloat16 == pytest.approx(1.0, abs=0.1)


def test_everything_measured_is_in_the_file(tmp_path: Path) -> None:
    model = tiny(context_length=128)
    deltas = [delta_for(model, 1), delta_for(model, 2)]
    both = measured(model, deltas, QUESTIONS)
    for delta, one in zip(deltas, both, strict=True):
        patch = PatchContent(delta, None, *one)
        stored = read_patch(write_patch(patch, tmp_path / "patch.safetensors"))
        assert (stored.checks, stored.drift, stored.size) == tuple(one)
    assert both[0].checks[0].before == both[1].checks[0].before
    assert both[0].checks[0].after != both[1].checks[0].after
