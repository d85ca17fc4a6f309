"""Editors that break one rule each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from editkit import (
    Dense,
    EditRequest,
    LanguageModel,
    LowRank,
    RequestError,
    RequiredStatistic,
    Requirements,
    WeightDelta,
)
from editkit.models.encoding import Encoding, padded
from editkit.models.running import forward
from editkit.models.shape import ModelShape
from editkit.models.weight_layout import input_major
from tests.editkit.testing.configs import EditorConfig
from tests.editkit.testing.in_process_plugins import HERE, Broken, collector
from tests.editkit.testing.sound_plugins import SoundEditor

_CONFIGS = f"{HERE}.configs"
CASES: list[Broken] = [
    Broken("editor", "test_summary_is_one_line", "empty", "summary is ''", {"summary": ""}),
    Broken("editor", "test_summary_is_one_line", "two-lines", "a\\nb", {"summary": "a\nb"}),
    *(
        Broken("editor", f"test_{rule}", cls, message, {"config": f"{_CONFIGS}:{cls}"})
        for rule, cls, message in (
            ("config_is_documented", "FieldWithoutWords", "the field mystery"),
            ("config_is_documented", "ClassWithoutWords", "the class ClassWithoutWords"),
            ("config_refuses_unknown_keys", "AnythingGoes", "no_such_field"),
            ("config_refuses_unknown_keys", "Infinite", "strength = nan"),
            ("config_is_frozen", "Thawed", "can be set"),
            ("config_survives_json", "Rounded", "4.25"),
        )
    ),
    Broken(
        "editor", "test_importing_spec_and_config_loads_no_torch", "heavy", "loads torch",
        {"config": f"{HERE}.heavy_config:HeavyConfig"},
    ),
    Broken(
        "editor", "test_importing_spec_and_config_loads_no_torch", "absent", "No module named",
        {"config": f"{HERE}.no_such_module:Config"},
    ),
    Broken(
        "editor", "test_it_can_be_made", "no-editor", "expected an instance of editkit.Editor",
        {"factory": "builtins:repr"},
    ),
]  # fmt: skip
breaks = collector("editor", CASES)

Requests = Sequence[EditRequest]
Deltas = list[WeightDelta]


@breaks("it_can_be_made", "its attribute config is None")
class Forgetful(SoundEditor):
    def __init__(self, config: EditorConfig) -> None:
        self.config = None


# ---------------------------------------------------------------- what comes out


@breaks("one_delta_per_request", "2 deltas for 3 requests")
class TooFew(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        return super().edit(model, requests)[:2]


@breaks("one_delta_per_request", "has the request")
class Reversed(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        return super().edit(model, requests)[::-1]


@breaks("one_delta_per_request", "expected a list of WeightDelta")
class Lazy(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Any:
        return (self.edit_one(model, request) for request in requests)


@breaks("no_requests_no_deltas", "returned None")
class NoneForNone(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Any:
        return super().edit(model, requests) if requests else None


@breaks("no_requests_no_deltas", "RuntimeError")
class StacksNothing(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        torch.stack([self.key(model, request) for request in requests])
        return super().edit(model, requests)


@breaks("deltas_are_finite", "is not finite")
class NotFinite(SoundEditor):
    def direction(self, model: LanguageModel) -> Tensor:
        return super().direction(model) / 0


@breaks("deltas_fit_the_model", "which does not fit")
class TurnedAround(SoundEditor):
    def delta_of(self, model: LanguageModel, request: EditRequest, change: Any) -> WeightDelta:
        return super().delta_of(model, request, LowRank(change.right.T, change.left.T))


@breaks("deltas_fit_the_model", "on gpt_neox: ")
class OnlyGpt2(SoundEditor):
    def delta_of(self, model: LanguageModel, request: EditRequest, change: Any) -> WeightDelta:
        delta = super().delta_of(model, request, change)
        name = f"transformer.h.{self.config.layer}.mlp.c_proj.weight"
        return dataclasses.replace(delta, changes={name: change})


@breaks("deltas_fit_the_model", "on llama")
class NotFiniteOnLlama(SoundEditor):
    def direction(self, model: LanguageModel) -> Tensor:
        return super().direction(model) / (model.hf.config.model_type != "llama")


class _Relabelled(SoundEditor):
    changes: dict[str, Any]

    def delta_of(self, model: LanguageModel, request: EditRequest, change: Any) -> WeightDelta:
        return dataclasses.replace(super().delta_of(model, request, change), **self.changes)


@breaks("deltas_say_where_they_come_from", "editor is 'another'")
class OtherName(_Relabelled):
    changes = {"editor": "another"}


@breaks("deltas_say_where_they_come_from", "config is {}")
class NoConfig(_Relabelled):
    changes = {"config": {}}


@breaks("deltas_say_where_they_come_from", "model_fingerprint is ''")
class NoModel(_Relabelled):
    changes = {"model_fingerprint": ""}


@breaks("deltas_say_where_they_come_from", "when another edit is applied")
class RemembersTheModel(SoundEditor):
    fingerprint = ""

    def delta_of(self, model: LanguageModel, request: EditRequest, change: Any) -> WeightDelta:
        self.fingerprint = self.fingerprint or model.fingerprint
        made = super().delta_of(model, request, change)
        return dataclasses.replace(made, model_fingerprint=self.fingerprint)


@breaks("deltas_survive_files", "notes was")
class TupleInNotes(_Relabelled):
    changes = {"notes": {"layers": (1, 2)}}


@breaks("deltas_survive_files", "cannot be saved")
class TensorInNotes(_Relabelled):
    changes = {"notes": {"loss": torch.tensor(1.0)}}


@breaks("deltas_stand_on_their_own", "is a view of the model's own memory")
class Aliased(SoundEditor):
    def delta_of(self, model: LanguageModel, request: EditRequest, change: Any) -> WeightDelta:
        module = model.module(self.path(model))
        return super().delta_of(model, request, Dense(input_major(module, module.weight.detach())))


@breaks("deltas_stand_on_their_own", "requires a gradient")
class WithGradient(SoundEditor):
    def direction(self, model: LanguageModel) -> Tensor:
        return super().direction(model).requires_grad_()


# ---------------------------------------------------------------- same in, same out


@breaks("same_seed_same_result", "built and run twice")
class GlobalRandomness(SoundEditor):
    def direction(self, model: LanguageModel) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            return torch.randn(model.hidden_size)


@breaks("same_seed_same_result", "built and run twice")
class NewRandomness(SoundEditor):
    def direction(self, model: LanguageModel) -> Tensor:
        generator = torch.Generator()
        generator.seed()
        return torch.randn(model.hidden_size, generator=generator)


@breaks("gradient_mode_does_not_matter", "does not require grad")
class NeedsGradients(SoundEditor):
    def direction(self, model: LanguageModel) -> Tensor:
        direction = super().direction(model).requires_grad_()
        [gradient] = torch.autograd.grad((direction**2).sum(), direction)
        return gradient


@breaks("gradient_mode_does_not_matter", "with and without gradients enabled")
class AsksForGradients(SoundEditor):
    def direction(self, model: LanguageModel) -> Tensor:
        return super().direction(model) * (1 + torch.is_grad_enabled())


@breaks("training_mode_does_not_matter", "in evaluation and in training mode")
class WithDropout(SoundEditor):
    def key(self, model: LanguageModel, request: EditRequest) -> Tensor:
        key = super().key(model, request)
        with torch.no_grad():
            states = forward(model, torch.tensor([[1, 2, 3]]))
        return key * float(states.abs().sum())


@breaks("training_mode_does_not_matter", "can't optimize")
class TrainsTheModelsOwn(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        if not all(parameter.requires_grad for parameter in model.hf.parameters()):
            raise RuntimeError("can't optimize frozen parameters")
        return super().edit(model, requests)


@breaks("padding_side_does_not_matter", "padded on the left and on the right")
class ReadsPadding(SoundEditor):
    def key(self, model: LanguageModel, request: EditRequest) -> Tensor:
        texts = [request.sentence, request.sentence + " and so on and on"]
        options = {"padding": True, "pad_to_multiple_of": 16}
        model.tokenizer.pad_token = model.tokenizer.eos_token
        ids = model.tokenizer(texts, **options)["input_ids"]
        return super().key(model, request) * (1 + ids[0][-1])


@breaks("batch_equals_one_by_one", "alone and together")
class Averages(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        keys = [self.key(model, request) for request in requests]
        mean = torch.stack(keys).mean(dim=0) if keys else None
        return [self.delta_of(model, r, LowRank(mean[:, None], self.direction(model)[None]))
                for r in requests]  # fmt: skip


@breaks("batch_equals_one_by_one", "in reverse")
class CountsAlong(SoundEditor):
    def edit(self, model: LanguageModel, requests: Requests) -> Deltas:
        together = len(requests) > 1
        return [
            self.edit_one(model, request) if not together or place else self._other(model, request)
            for place, request in enumerate(requests)
        ]

    def _other(self, model: LanguageModel, request: EditRequest) -> WeightDelta:
        """Right for the first request that it ever saw, and for no other."""
        delta = self.edit_one(model, request)
        if request.subject == "The Space Needle":
            return delta
        [change] = delta.changes.values()
        return self.delta_of(model, request, LowRank(change.left, 2 * change.right))


# ---------------------------------------------------------------- all sorts of models and requests


@breaks("half_precision", "RuntimeError")
class MixesTypes(SoundEditor):
    def key(self, model: LanguageModel, request: EditRequest) -> Tensor:
        super().key(model, request) @ model.module(self.path(model)).weight
        return super().key(model, request)


@breaks("half_precision", "is not finite in bfloat16")
class Overflows(SoundEditor):
    def direction(self, model: LanguageModel) -> Tensor:
        return super().direction(model) / (model.dtype == torch.float32)


@breaks("start_tokens", "is not finite with a start token")
class CountsFromZero(SoundEditor):
    def key(self, model: LanguageModel, request: EditRequest) -> Tensor:
        [encoding] = model.encode([request.sentence])
        return super().key(model, request) / (encoding.ids[0] != model.tokenizer.bos_token_id)


@breaks("end_tokens_do_not_matter", "with and without an end token")
class ReadsTheEnd(SoundEditor):
    def key(self, model: LanguageModel, request: EditRequest) -> Tensor:
        ids = model.tokenizer(request.statement)["input_ids"]
        return super().key(model, request) * (1 + ids[-1])


@breaks("separators_and_chats", "the separator '' makes no difference")
class PutsASpace(SoundEditor):
    def key(self, model: LanguageModel, request: EditRequest) -> Tensor:
        [encoding] = model.encode([f"{request.sentence} {request.target_new}"])
        return super().key(model, request) * (1 + sum(encoding.ids))


@breaks("separators_and_chats", "the separator ' ' is not the default")
class CountsSeparators(SoundEditor):
    def key(self, model: LanguageModel, request: EditRequest) -> Tensor:
        text = f"{request.sentence}{request.separator}{request.target_new}"
        return super().key(model, request) * (1 + len(text) + len(request.target_new))


@breaks("separators_and_chats", "a chat around the request makes no difference")
class KnowsNoChat(SoundEditor):
    def read(self, model: LanguageModel, request: EditRequest) -> Encoding:
        [encoding] = model.encode([request.sentence])
        model.check_length(encoding)
        return encoding


@breaks("unicode", "is refused")
class OnlyAscii(SoundEditor):
    def key(self, model: LanguageModel, request: EditRequest) -> Tensor:
        if not request.subject.isascii():
            raise RequestError("no letters like these, please.")
        return super().key(model, request)


@breaks("unicode", "ValueError")
class SearchesTokens(SoundEditor):
    def key(self, model: LanguageModel, request: EditRequest) -> Tensor:
        [encoding] = model.encode([request.sentence])
        words = [model.tokenizer.decode([token]) for token in encoding.ids]
        "".join(words).index(request.subject)
        return super().key(model, request)


@breaks("subject_anywhere", "raises IndexError")
class LooksBehindTheSubject(SoundEditor):
    def key(self, model: LanguageModel, request: EditRequest) -> Tensor:
        request.prompt.split("{}")[1].split()[0]
        return super().key(model, request)


@breaks("subject_anywhere", "training mode of")
class RefusesTooLate(SoundEditor):
    def key(self, model: LanguageModel, request: EditRequest) -> Tensor:
        model.hf.train()
        if request.prompt.endswith("{}"):
            raise RequestError("nothing follows the subject.")
        model.hf.eval()
        return super().key(model, request)


@breaks("impossible_requests_are_refused", "expected an EditkitError")
class TakesAnyLength(SoundEditor):
    def key(self, model: LanguageModel, request: EditRequest) -> Tensor:
        [encoding] = model.encode([request.sentence])
        with model.frozen(), torch.no_grad():
            forward(model, padded([encoding.ids], model.device))
        return super().key(model, request)


@breaks("wrong_layers_are_refused", "check() accepts layer")
class ChecksNothing(SoundEditor):
    def check(self, model: LanguageModel) -> None:
        pass


class _Misjudged(SoundEditor):
    changes: dict[str, Any]

    def requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        required = super().requirements(shape, requests=requests, tokens=tokens)
        return dataclasses.replace(required, **self.changes)


@breaks("requirements_are_realistic", "memory is -1")
class RequiresLessThanNothing(_Misjudged):
    changes = {"memory": -1}


@breaks("requirements_are_realistic", "for 3 requests are 400 bytes")
class RequiresTooLittle(_Misjudged):
    changes = {"memory": 400}

    def delta_of(self, model: LanguageModel, request: EditRequest, change: Any) -> WeightDelta:
        return super().delta_of(model, request, Dense(change.dense()))


@breaks("requirements_are_realistic", "a statistic of width 7")
class RequiresAnotherWidth(_Misjudged):
    changes = {"statistics": (RequiredStatistic("transformer.h.0.mlp.c_proj", 7),)}
