"""Editors that break one rule of joint edits and sequences each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from editkit import EditRequest, LanguageModel, State, WeightDelta
from tests.editkit.testing.in_process_plugins import HERE, Broken, collector
from tests.editkit.testing.sound_plugins import SoundEditor, SoundSequentialEditor

CASES: list[Broken] = [
    Broken(
        "editor", "test_regimes_are_declared", "only-declared", "implements independent.",
        {"regimes": ("independent", "joint")},
    ),
    Broken(
        "editor", "test_regimes_are_declared", "not-declared", "implements independent, joint, seq",
        {"factory": f"{HERE}.sound_plugins:SoundSequentialEditor"},
    ),
]  # fmt: skip
breaks = collector("editor", CASES)

Requests = Sequence[EditRequest]


@breaks("one_delta_for_all_requests", "expected one WeightDelta")
class JointList(SoundEditor):
    def edit_jointly(self, model: LanguageModel, requests: Requests) -> Any:
        return [super().edit_jointly(model, requests)]


@breaks("one_delta_for_all_requests", "returned a delta with the requests")
class OnlyTheLast(SoundEditor):
    def edit_jointly(self, model: LanguageModel, requests: Requests) -> WeightDelta:
        return self.edit(model, requests)[-1]


@breaks("one_delta_for_all_requests", "expected one entry per request")
class NotesOfOne(SoundEditor):
    def edit_jointly(self, model: LanguageModel, requests: Requests) -> WeightDelta:
        delta = super().edit_jointly(model, requests)
        return dataclasses.replace(delta, notes={"facts": delta.notes["facts"][:1]})


@breaks("one_delta_for_all_requests", "is not finite")
class NotFiniteTogether(SoundSequentialEditor):
    def direction(self, model: LanguageModel) -> Tensor:
        return super().direction(model) / (model.hf.config.model_type != "llama")


@breaks("joint_edit_of_one_fact", "edited alone and jointly")
class RegularisesGroups(SoundEditor):
    def edit_jointly(self, model: LanguageModel, requests: Requests) -> WeightDelta:
        delta = super().edit_jointly(model, requests)
        changes = {
            name: dataclasses.replace(change, right=change.right / 2)
            for name, change in delta.changes.items()
        }
        return dataclasses.replace(delta, changes=changes)


@breaks("many_facts_leave_the_model_alone", "mlp.c_proj.weight")
class WritesAsItGoes(SoundEditor):
    def edit_jointly(self, model: LanguageModel, requests: Requests) -> WeightDelta:
        delta = super().edit_jointly(model, requests)
        with torch.no_grad():
            for name, change in delta.changes.items():
                model.hf.get_parameter(name).add_(change.dense())
        return delta


@breaks("many_facts_leave_the_model_alone", "torch's random")
class DrawsInSteps(SoundSequentialEditor):
    def step(
        self, model: LanguageModel, requests: Requests, state: State
    ) -> tuple[WeightDelta, State]:
        torch.rand(1)
        return super().step(model, requests, state)


@breaks("first_step_is_a_joint_edit", "in a first step")
class StartsAtOne(SoundSequentialEditor):
    def edit_jointly(self, model: LanguageModel, requests: Requests) -> WeightDelta:
        return self.step(model, requests, {"written": torch.ones(())})[0]


@breaks("steps_build_on_each_other", "was not made on the model with the first step applied")
class EditsTheUnedited(SoundSequentialEditor):
    def step(
        self, model: LanguageModel, requests: Requests, state: State
    ) -> tuple[WeightDelta, State]:
        with model.unedited():
            return super().step(model, requests, state)


@breaks("steps_build_on_each_other", "expected tensors by name")
class CountsInNumbers(SoundSequentialEditor):
    def step(self, model: LanguageModel, requests: Requests, state: Any) -> Any:
        delta, _ = super().step(model, requests, {})
        return delta, {"written": len(requests)}


@breaks("steps_build_on_each_other", "expected a delta and a state")
class NoState(SoundEditor):
    def step(self, model: LanguageModel, requests: Requests, state: State) -> Any:
        return self.edit_jointly(model, requests)


@breaks("sequences_can_be_resumed", "a new editor continues")
class KeepsCount(SoundSequentialEditor):
    written = 0

    def step(
        self, model: LanguageModel, requests: Requests, state: State
    ) -> tuple[WeightDelta, State]:
        delta, _ = super().step(model, requests, {"written": torch.tensor(float(self.written))})
        self.written += len(requests)
        return delta, {}


@breaks("sequences_can_be_resumed", "was modified by the next step")
class AddsInPlace(SoundSequentialEditor):
    def step(
        self, model: LanguageModel, requests: Requests, state: State
    ) -> tuple[WeightDelta, State]:
        delta, after = super().step(model, requests, state)
        if state:
            state["written"].add_(len(requests))
        return delta, after


@breaks("sequences_can_be_resumed", "cannot be saved as safetensors")
class SharesMemory(SoundSequentialEditor):
    def step(
        self, model: LanguageModel, requests: Requests, state: State
    ) -> tuple[WeightDelta, State]:
        delta, after = super().step(model, requests, state)
        return delta, {**after, "again": after["written"].view(1)}
