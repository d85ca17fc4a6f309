"""Locators that break one rule each."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from editkit import Fact, LanguageModel, Localization, RequestError
from tests.editkit.testing.in_process_plugins import Broken, collector
from tests.editkit.testing.sound_plugins import SoundLocator

CASES: list[Broken] = []
breaks = collector("locator", CASES)

Facts = Sequence[Fact]


class _Changed(SoundLocator):
    """Changes one attribute of what it finds."""

    attribute: str

    def locate_one(self, model: LanguageModel, fact: Fact) -> Localization:
        traced = super().locate_one(model, fact)
        value = self.change(getattr(traced, self.attribute), traced)
        return dataclasses.replace(traced, **{self.attribute: value})

    @abstractmethod
    def change(self, value: Any, traced: Localization) -> Any:
        """The value in its place."""


@breaks("one_localization_per_fact", "1 localizations for 3 facts")
class TooFew(SoundLocator):
    def locate(self, model: LanguageModel, facts: Facts) -> list[Localization]:
        return super().locate(model, facts)[:1]


@breaks("one_localization_per_fact", "has the fact")
class Reversed(SoundLocator):
    def locate(self, model: LanguageModel, facts: Facts) -> list[Localization]:
        return super().locate(model, facts)[::-1]


@breaks("no_facts_no_localizations", "returned None")
class NoneForNone(SoundLocator):
    def locate(self, model: LanguageModel, facts: Facts) -> Any:
        return super().locate(model, facts) if facts else None


@breaks("scores_are_tokens_by_layers", "rows of")
class LayersByTokens(_Changed):
    attribute = "scores"

    def change(self, value: Any, traced: Localization) -> Any:
        return tuple(zip(*value, strict=True))


@breaks("scores_are_tokens_by_layers", "expected finite numbers")
class NotFinite(_Changed):
    attribute = "scores"

    def change(self, value: Any, traced: Localization) -> Any:
        return ((float("nan"),) * len(value[0]), *value[1:])


@breaks("scores_are_tokens_by_layers", "expected finite numbers")
class Tensors(_Changed):
    attribute = "scores"

    def change(self, value: Any, traced: Localization) -> Any:
        return tuple(tuple(torch.tensor(row)) for row in value)


@breaks("scores_are_tokens_by_layers", "expected finite numbers")
class EndlessBaseline(_Changed):
    attribute = "baselines"

    def change(self, value: Any, traced: Localization) -> Any:
        return {"clean": float("inf")}


@breaks("scores_are_tokens_by_layers", "has no kind")
class NoKind(_Changed):
    attribute = "kind"

    def change(self, value: Any, traced: Localization) -> Any:
        return ""


@breaks("tokens_are_the_prompt", "when joined")
class StrippedTokens(_Changed):
    attribute = "tokens"

    def change(self, value: Any, traced: Localization) -> Any:
        return tuple(token.strip() for token in value)


@breaks("tokens_are_the_prompt", "the localization has 1")
class OneToken(SoundLocator):
    def locate_one(self, model: LanguageModel, fact: Fact) -> Localization:
        traced = super().locate_one(model, fact)
        return dataclasses.replace(traced, tokens=(fact.prompt,), scores=traced.scores[:1])


@breaks("tokens_are_the_prompt", "expected a tuple of texts")
class TokenIds(_Changed):
    attribute = "tokens"

    def change(self, value: Any, traced: Localization) -> Any:
        return tuple(range(len(value)))


@breaks("neurons_exist", "expected decreasing numbers")
class Unsorted(_Changed):
    attribute = "neurons"

    def change(self, value: Any, traced: Localization) -> Any:
        return value[::-1]


@breaks("neurons_exist", "has no neuron 128")
class NoSuchNeuron(_Changed):
    attribute = "neurons"

    def change(self, value: Any, traced: Localization) -> Any:
        return ((0, 128, 1.0),)


@breaks("neurons_exist", "no layer 4")
class NoSuchLayer(_Changed):
    attribute = "neurons"

    def change(self, value: Any, traced: Localization) -> Any:
        return ((4, 1, 1.0),)


@breaks("the_answer_may_be_left_out", "without an answer: ")
class NeedsAnswer(SoundLocator):
    def locate_one(self, model: LanguageModel, fact: Fact) -> Localization:
        if fact.answer is None:
            raise RequestError("what is the answer?")
        return super().locate_one(model, fact)


@breaks("batch_equals_one_by_one", "alone and together")
class CountsFacts(SoundLocator):
    def locate(self, model: LanguageModel, facts: Facts) -> list[Localization]:
        self.n = len(facts)
        return super().locate(model, facts)

    def scores(self, model: LanguageModel, ids: Sequence[int]) -> Tensor:
        return super().scores(model, ids) / self.n


@breaks("half_precision", "TypeError")
class ThroughNumpy(SoundLocator):
    def scores(self, model: LanguageModel, ids: Sequence[int]) -> Tensor:
        next(model.hf.parameters()).detach().numpy()
        return super().scores(model, ids)


@breaks("unicode", "is refused")
class OnlyAscii(SoundLocator):
    def locate_one(self, model: LanguageModel, fact: Fact) -> Localization:
        if not fact.prompt.isascii():
            raise RequestError("no letters like these, please.")
        return super().locate_one(model, fact)


@breaks("subject_anywhere", "raises IndexError")
class LooksBehindTheSubject(SoundLocator):
    def locate_one(self, model: LanguageModel, fact: Fact) -> Localization:
        fact.prompt.split(fact.subject)[1].split()[0]
        return super().locate_one(model, fact)


@breaks("impossible_facts_are_refused", "expected an EditkitError")
class TakesAnyLength(SoundLocator):
    def locate_one(self, model: LanguageModel, fact: Fact) -> Localization:
        [encoding] = model.encode([fact.prompt])
        self.scores(model, encoding.ids)
        return super().locate_one(model, fact)


# ---------------------------------------------------------------- rules of all guests


@breaks("model_is_left_bit_identical", "the values of")
class Mutates(SoundLocator):
    def scores(self, model: LanguageModel, ids: Sequence[int]) -> Tensor:
        with torch.no_grad():
            model.module(model.path(0, "mlp_out")).weight.mul_(1.001)
        return super().scores(model, ids)


@breaks("same_seed_same_result", "built and run twice")
class GlobalRandomness(SoundLocator):
    def scores(self, model: LanguageModel, ids: Sequence[int]) -> Tensor:
        scores = super().scores(model, ids)
        return scores + torch.randn(scores.shape)


@breaks("errors_leave_nothing_behind", "hooks of")
class HookWithoutFinally(SoundLocator):
    def scores(self, model: LanguageModel, ids: Sequence[int]) -> Tensor:
        handle = model.block(0).register_forward_hook(lambda *_: None)
        scores = super().scores(model, ids)
        handle.remove()
        return scores


@breaks("chats", "tokens, and the localization")
class KnowsNoChat(SoundLocator):
    def locate_one(self, model: LanguageModel, fact: Fact) -> Localization:
        traced = super().locate_one(model, dataclasses.replace(fact, chat=False))
        return dataclasses.replace(traced, fact=fact)
