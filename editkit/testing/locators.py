"""The rules that every locator keeps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from typing_extensions import override

from editkit.data_types import Fact, Localization
from editkit.errors import EditkitError
from editkit.interfaces import Locator
from editkit.models.language_model import LanguageModel
from editkit.models.weight_layout import input_major
from editkit.testing.contract import ContractError, require
from editkit.testing.model_contract import UNICODE, ModelContract

__all__ = ["FACTS", "LocatorContract"]

FACTS = (
    Fact("The Space Needle is in the city of", "The Space Needle", "Seattle"),
    Fact("The mother tongue of Danielle Darrieux is", "Danielle Darrieux", "French"),
    Fact("Mario Kart was created by", "Mario Kart"),
)
_PLACES = ("Rome is in", "The city of Rome", 'They said: "Rome" is in', "(Rome), it is", "Rome")


class LocatorContract(ModelContract):
    """The rules for a locator; a subclass names it: ``plugin = "mine"``.

    Attributes:
        facts: Facts to trace; at least two, one of them without an answer.
    """

    kind = "locator"
    base = Locator

    facts: Sequence[Fact] = FACTS

    @override
    def work(self, model: LanguageModel) -> list[Localization]:
        return self.locate(model, self.facts)

    @override
    def distance(self, first: Sequence[Localization], second: Sequence[Localization]) -> float:
        return max(_distance(a, b) for a, b in zip(first, second, strict=True))

    def locate(self, model: LanguageModel, facts: Sequence[Fact]) -> list[Localization]:
        """Build the locator and locate. Returns one localization per fact."""
        locations: list[Localization] = self.make().locate(model, facts)
        require(
            isinstance(locations, list)
            and all(isinstance(each, Localization) for each in locations),
            f"locate() returned {locations!r:.80}, expected a list of Localization.",
        )
        require(
            len(locations) == len(facts),
            f"locate() returned {len(locations)} localizations for {len(facts)} facts.",
        )
        return locations

    # ------------------------------------------------------------ localizations

    def test_one_localization_per_fact(self) -> None:
        """locate() returns one localization per fact, in order, each with its fact.

        Pass Localization(fact=...) the fact itself.
        """
        for fact, location in zip(self.facts, self.work(self.make_model()), strict=True):
            require(
                location.fact == fact,
                f"the localization of {fact.prompt!r} has the fact {location.fact!r}.",
            )

    def test_no_facts_no_localizations(self) -> None:
        """locate() returns an empty list for no facts.

        Return [] before anything is stacked or averaged.
        """
        locations = self.locate(self.make_model(), [])
        require(locations == [], f"locate() returned {locations!r}, expected [].")

    def test_scores_are_tokens_by_layers(self) -> None:
        """Scores have a row per token and a finite number per layer, on each architecture.

        Convert tensors to tuples of numbers: tuple(map(tuple, scores.tolist())), (tokens,
        layers).
        """
        for architecture in self.architectures:
            model = self.make_model(architecture)
            for location in self.work(model):
                _require_sound(location, model)

    def test_tokens_are_the_prompt(self) -> None:
        """The tokens are those of the prompt, as text: joined, they give the prompt.

        Cut the prompt at the offsets of model.encode; a start token is an empty text.
        """
        for begin in (False, True):
            model = self.make_model(begin=begin)
            for location in self.work(model):
                _require_sound(location, model)
                joined = "".join(location.tokens)
                require(
                    joined == location.fact.prompt,
                    f"the tokens of {location.fact.prompt!r} give {joined!r} when joined.",
                )

    def test_neurons_exist(self) -> None:
        """Single neurons exist in the model, and have finite effects, largest first.

        Count layers and neurons from 0, and sort by decreasing effect.
        """
        model = self.make_model()
        for location in self.work(model):
            effects = [effect for _, _, effect in location.neurons]
            require(
                all(map(math.isfinite, effects)) and effects == sorted(effects, reverse=True),
                f"the neurons' effects are {effects!r:.80}, expected decreasing numbers.",
            )
            for layer, neuron, _ in location.neurons:
                require(
                    0 <= layer < model.n_layers,
                    f"there is no layer {layer}.",
                )
                width = _mlp_width(model, layer)
                require(
                    0 <= neuron < width,
                    f"layer {layer} has no neuron {neuron}.",
                )

    def test_the_answer_may_be_left_out(self) -> None:
        """A fact without an answer is traced for the model's own answer.

        Use the most likely next token if fact.answer is None.
        """
        model = self.make_model()
        for fact in self.facts:
            try:
                [location] = self.locate(model, [Fact(fact.prompt, fact.subject)])
            except EditkitError as error:
                raise ContractError(f"{fact.prompt!r} without an answer: {error}") from error
            _require_sound(location, model)

    # ------------------------------------------------------------ batches

    def test_batch_equals_one_by_one(self) -> None:
        """Facts located together give the same scores as one at a time, in any order.

        Mask padding, and seed random numbers separately for each fact.
        """
        model = self.make_model()
        together = self.work(model)
        alone = [self.locate(model, [fact])[0] for fact in self.facts]
        self._require_close(alone, together, "alone and together")
        backwards = self.locate(model, self.facts[::-1])[::-1]
        self._require_close(together, backwards, "in this order and in reverse")

    # ------------------------------------------------------------ kinds of models and facts

    def test_half_precision(self) -> None:
        """A model in bfloat16 works, and its scores are finite.

        Compute in float32 where precision matters: tensor.float().
        """
        model = self.make_model(dtype=torch.bfloat16)
        for location in self.work(model):
            _require_sound(location, model)

    def test_chats(self) -> None:
        """A fact in a chat is located in the chat: its tokens are those of the chat template.

        Encode prompts with model.read(..., chat=fact.chat), and answers with
        model.complete.
        """
        model = self.make_model()
        asked = [dataclasses.replace(fact, chat=True) for fact in self.facts]
        for location in self.locate(model, asked):
            _require_sound(location, model)

    def test_unicode(self) -> None:
        """Facts in any script can be located.

        Find tokens by the characters that they cover, never by decoding single tokens.
        """
        model = self.make_model()
        for text in UNICODE:
            try:
                [location] = self.locate(model, [Fact(f"{text} is in the city of", text, text)])
            except EditkitError as error:
                raise ContractError(f"the subject {text!r} is refused: {error}") from error
            _require_sound(location, model)

    def test_subject_anywhere(self) -> None:
        """A subject at the start, at the end or after a quote is located, or refused.

        Raise an EditkitError if a fact cannot be traced.
        """
        model = self.make_model()
        for prompt in _PLACES:
            self._located_or_refused(model, [Fact(prompt, "Rome", "Paris")])

    def test_impossible_facts_are_refused(self) -> None:
        """A prompt longer than the model's context is located, or refused.

        Call model.check_length on every encoding.
        """
        model = self.make_model()
        long = "word " * model.context_length
        self._located_or_refused(model, [*self.facts, Fact(f"{long}Rome is in", "Rome", "Italy")])

    def _located_or_refused(self, model: LanguageModel, facts: Sequence[Fact]) -> None:
        def work() -> None:
            for location in self.locate(model, facts):
                _require_sound(location, model)

        last = facts[-1]
        what = f"the prompt {last.prompt!r:.60} with the subject {last.subject!r}"
        self._done_or_refused(model, work, what)


def _require_sound(location: Localization, model: LanguageModel) -> None:
    """Raise a :class:`ContractError` unless tokens, scores and baselines have the right form."""
    prompt = location.fact.prompt
    [encoding] = model.read([prompt], chat=location.fact.chat)
    tokens, rows = location.tokens, location.scores
    require(
        isinstance(tokens, tuple) and all(isinstance(token, str) for token in tokens),
        f"tokens of {prompt!r} are {tokens!r:.80}, expected a tuple of texts.",
    )
    require(
        len(tokens) == len(encoding),
        f"{prompt!r} has {len(encoding)} tokens, and the localization has {len(tokens)}.",
    )
    shapes = {len(row) for row in rows}
    require(
        len(rows) == len(tokens) and shapes == {model.n_layers},
        f"scores of {prompt!r} have {len(rows)} rows of {sorted(shapes)} numbers, expected "
        f"{len(tokens)} tokens of {model.n_layers} layers.",
    )
    numbers = [*(score for row in rows for score in row), *location.baselines.values()]
    for number in numbers:
        require(
            isinstance(number, (int, float)) and math.isfinite(number),
            f"scores and baselines of {prompt!r} have {number!r}, expected finite numbers.",
        )
    require(location.kind, f"the localization of {prompt!r} has no kind.")


def _mlp_width(model: LanguageModel, layer: int) -> int:
    module = model.module(model.path(layer, "mlp_out"))
    return int(input_major(module, module.get_parameter("weight")).shape[0])


def _distance(first: Localization, second: Localization) -> float:
    """Norm of the difference of the scores, relative to the larger norm."""
    a, b = (torch.tensor(each.scores, dtype=torch.float64) for each in (first, second))
    if a.shape != b.shape or first.tokens != second.tokens:
        return float("inf")
    largest = max(float(a.norm()), float(b.norm()))
    return float((a - b).norm()) / largest if largest else 0.0
