"""Editors that leave the model or the process other than they found it, one rule each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from editkit import (
    Dense,
    EditRequest,
    LanguageModel,
    LowRank,
    WeightDelta,
)
from editkit.models.running import forward
from tests.editkit.testing.in_process_plugins import Broken, collector
from tests.editkit.testing.sound_plugins import SoundEditor

CASES: list[Broken] = []
breaks = collector("editor", CASES)

Requests = Sequence[EditRequest]
Deltas = list[WeightDelta]


@breaks("model_is_left_bit_identical", "mlp.c_proj.weight")
class Mutates(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        deltas = super().edit(model, requests)
        with torch.no_grad():
            model.module(self.path(model)).weight.mul_(1.001)
        return deltas


@breaks("model_is_left_bit_identical", "the values of")
class Subtracts(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        with torch.no_grad():
            for weight in model.hf.parameters():
                weight.add_(0.1).sub_(0.1)
        return super().edit(model, requests)


@breaks("model_is_left_bit_identical", "inv_freq", architectures=("llama",))
class MutatesBuffer(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        for buffer in model.hf.buffers():
            buffer.mul_(2)
        return super().edit(model, requests)


@breaks("gradient_flags_are_restored", "requires_grad of")
class Freezes(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        model.hf.requires_grad_(False)
        return super().edit(model, requests)


@breaks("gradient_flags_are_restored", "the gradient of")
class LeavesGradients(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        with torch.enable_grad():
            forward(model, torch.tensor([[1, 2]])).sum().backward()
        return super().edit(model, requests)


@breaks("mode_is_restored", "training mode of")
class Evaluates(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        model.hf.eval()
        return super().edit(model, requests)


@breaks("modules_and_hooks_are_restored", "hooks of")
class LeavesHook(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        model.block(0).register_forward_hook(lambda *_: None)
        return super().edit(model, requests)


@breaks("modules_and_hooks_are_restored", "hooks of")
class LeavesTensorHook(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        next(p for p in model.hf.parameters() if p.requires_grad).register_hook(lambda g: g)
        return super().edit(model, requests)


@breaks("modules_and_hooks_are_restored", "the code of")
class ReplacesForward(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        block = model.block(0)
        block.forward = block.forward
        return super().edit(model, requests)


@breaks("modules_and_hooks_are_restored", "the parameter")
class ReplacesParameter(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        module = model.module(self.path(model))
        module.weight = nn.Parameter(module.weight.detach().clone())
        return super().edit(model, requests)


@breaks("random_numbers_are_left_alone", "torch's random")
class DrawsFromTorch(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        torch.rand(1)
        return super().edit(model, requests)


@breaks("random_numbers_are_left_alone", "NumPy's")
class DrawsFromNumpy(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        numpy.random.rand()
        return super().edit(model, requests)


@breaks("random_numbers_are_left_alone", "Python's")
class DrawsFromPython(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        random.random()
        return super().edit(model, requests)


@breaks("random_numbers_are_left_alone", "torch's random")
class Reseeds(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        torch.manual_seed(self.config.seed)
        return super().edit(model, requests)


@breaks("surroundings_are_restored", "torch's gradient mode")
class SwitchesGradientsOff(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        torch.set_grad_enabled(False)
        return super().edit(model, requests)


@breaks("surroundings_are_restored", "the tokenizer's padding side")
class TurnsPadding(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        model.tokenizer.padding_side = "left"
        return super().edit(model, requests)


@breaks("surroundings_are_restored", "the tokenizer's special tokens")
class SetsPadToken(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        model.tokenizer.pad_token = model.tokenizer.eos_token
        return super().edit(model, requests)


@breaks("surroundings_are_restored", "the model's config")
class SetsConfig(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        model.hf.config.use_cache = False
        return super().edit(model, requests)


@breaks("errors_leave_nothing_behind", "hooks of")
class HookWithoutFinally(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        handle = model.block(0).register_forward_hook(lambda *_: None)
        deltas = super().edit(model, requests)
        handle.remove()
        return deltas


@breaks("errors_leave_nothing_behind", "the values of")
class WeightsWithoutFinally(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        weight = model.module(self.path(model)).weight
        before = weight.detach().clone()
        with torch.no_grad():
            deltas = super().edit(model, requests[:-1])
            weight.zero_()
            deltas += super().edit(model, requests[-1:])
            weight.copy_(before)
        return deltas


@breaks("errors_leave_nothing_behind", "requires_grad of")
class FlagsWithoutFinally(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        flags = [p.requires_grad for p in model.hf.parameters()]
        model.hf.requires_grad_(False)
        deltas = super().edit(model, requests)
        for parameter, flag in zip(model.hf.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
        return deltas


@breaks("prepare_can_be_repeated", "prepared once and three times")
class Accumulates(SoundEditor):
    prepared = 0

    def prepare(self, model: LanguageModel) -> None:
        self.prepared += 1

    def direction(self, model: LanguageModel) -> Tensor:
        return super().direction(model) * self.prepared


@breaks("prepare_can_be_repeated", "prepare() changed")
class PreparesTheModel(SoundEditor):
    def prepare(self, model: LanguageModel) -> None:
        model.hf.train()


class _Sneaky(Dense):
    """A change that changes something else as well when it is looked at."""

    def dense(self) -> Tensor:
        with torch.no_grad():
            self.victim.add_(1)
        return super().dense()


@breaks("applying_is_taken_back", "after applying: the values of")
class SneaksIn(SoundEditor):
    def delta_of(self, model: LanguageModel, request: EditRequest, change: Any) -> WeightDelta:
        sneaky = _Sneaky(change.dense())
        object.__setattr__(sneaky, "victim", model.module(model.architecture.final_norm).weight)
        return super().delta_of(model, request, sneaky)


class _TwoFaced(LowRank):
    """A change whose factors say something else than its whole."""

    def dense(self) -> Tensor:
        return 2 * super().dense()


@breaks("rows_of_a_batch_see_the_same_edit", "the edited weights")
class SaysTwoThings(SoundEditor):
    def delta_of(self, model: LanguageModel, request: EditRequest, change: Any) -> WeightDelta:
        return super().delta_of(model, request, _TwoFaced(change.left, change.right))
