"""The contract of locators."""

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
from editkit.models.orientation import input_major
from editkit.testing.contract import ContractError, require
from editkit.testing.guests import UNICODE, ModelContract

__all__ = ["FACTS", "LocatorContract"]

FACTS = (
    Fact("The Space Needle is in the city of", "The Space Needle", "Seattle"),
    Fact("The mother tongue of Danielle Darrieux is", "Danielle Darrieux", "French"),
    Fact("Mario Kart was created by", "Mario Kart"),
)
_PLACES = ("Rome is in", "The city of Rome", 'They said: "Rome" is in', "(Rome), it is", "Rome")


class LocatorContract(ModelContract):
    """The contract of a locator; a subclass names it: ``plugin = "mine"``.

    Attributes:
        facts: What is traced; at least two, one of them without an answer.
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
        """Locate, newly made; one localization for each fact."""
        found: list[Localization] = self.make().locate(model, facts)
        require(
            isinstance(found, list) and all(isinstance(each, Localization) for each in found),
            f"locate() returned {found!r:.80}, expected a list of Localization.",
        )
        require(
            len(found) == len(facts),
            f"locate() returned {len(found)} localizations for {len(facts)} facts.",
        )
        return found

    # ------------------------------------------------------------ what comes out

    def test_one_localization_per_fact(self) -> None:
        """locate() returns one localization per fact, in order, each with its fact.

        Give Localization(fact=...) the fact itself.
        """
        for fact, found in zip(self.facts, self.work(self.make_model()), strict=True):
            require(
                found.fact == fact,
                f"the localization of {fact.prompt!r} is of the fact {found.fact!r}.",
            )

    def test_no_facts_no_localizations(self) -> None:
        """locate() of no facts returns an empty list.

        Return [] before anything is stacked or averaged.
        """
        found = self.locate(self.make_model(), [])
        require(found == [], f"locate() returned {found!r}, expected [].")

    def test_scores_are_tokens_by_layers(self) -> None:
        """Scores have a row per token and a finite number per layer, on each architecture.

        Turn tensors into tuples of numbers: tuple(map(tuple, scores.tolist())), (tokens, layers).
        """
        for architecture in self.architectures:
            model = self.make_model(architecture)
            for found in self.work(model):
                _require_sound(found, model)

    def test_tokens_are_the_prompt(self) -> None:
        """Tokens are those of the prompt, as text: joined, they are the prompt again.

        Cut the prompt at the offsets of model.encode; a start token is the empty text.
        """
        for begin in (False, True):
            model = self.make_model(begin=begin)
            for found in self.work(model):
                _require_sound(found, model)
                joined = "".join(found.tokens)
                require(
                    joined == found.fact.prompt,
                    f"the tokens of {found.fact.prompt!r} are joined to {joined!r}.",
                )

    def test_neurons_exist(self) -> None:
        """Single neurons are ones that the model has, with finite effects, largest first.

        Count layers and neurons from 0; sort by falling effect.
        """
        model = self.make_model()
        for found in self.work(model):
            effects = [effect for _, _, effect in found.neurons]
            require(
                all(map(math.isfinite, effects)) and effects == sorted(effects, reverse=True),
                f"the neurons' effects are {effects!r:.80}, expected falling numbers.",
            )
            for layer, neuron, _ in found.neurons:
                require(0 <= layer < model.n_layers, f"a neuron is said to be in layer {layer}.")
                width = _mlp_width(model, layer)
                require(
                    0 <= neuron < width, f"neuron {neuron} is named of {width} in layer {layer}."
                )

    def test_the_answer_may_be_left_out(self) -> None:
        """A fact without an answer is traced for the model's own answer.

        Take the most likely next token where fact.answer is None.
        """
        model = self.make_model()
        for fact in self.facts:
            try:
                [found] = self.locate(model, [Fact(fact.prompt, fact.subject)])
            except EditkitError as error:
                raise ContractError(f"{fact.prompt!r} without an answer: {error}") from error
            _require_sound(found, model)

    # ------------------------------------------------------------ facts together and alone

    def test_batch_equals_one_by_one(self) -> None:
        """Facts located together give the same scores as one at a time, in any order.

        Mask padding, and seed what is random for each fact anew.
        """
        model = self.make_model()
        together = self.work(model)
        alone = [self.locate(model, [fact])[0] for fact in self.facts]
        self._require_close(alone, together, "alone and together")
        backwards = self.locate(model, self.facts[::-1])[::-1]
        self._require_close(together, backwards, "in this order and in reverse")

    # ------------------------------------------------------------ all sorts of models and facts

    def test_half_precision(self) -> None:
        """A model in bfloat16 is searched, with finite scores.

        Compute in float32 where precision matters: tensor.float().
        """
        model = self.make_model(dtype=torch.bfloat16)
        for found in self.work(model):
            _require_sound(found, model)

    def test_chats(self) -> None:
        """A fact in a chat is located in the chat: its tokens are those of the model's template.

        Read prompts with model.read(..., chat=fact.chat), and answers with model.complete.
        """
        model = self.make_model()
        asked = [dataclasses.replace(fact, chat=True) for fact in self.facts]
        for found in self.locate(model, asked):
            _require_sound(found, model)

    def test_unicode(self) -> None:
        """Facts in any script are located.

        Find tokens by the characters that they cover, never by decoding single tokens.
        """
        model = self.make_model()
        for text in UNICODE:
            try:
                [found] = self.locate(model, [Fact(f"{text} is in the city of", text, text)])
            except EditkitError as error:
                raise ContractError(f"the subject {text!r} is refused: {error}") from error
            _require_sound(found, model)

    def test_subject_anywhere(self) -> None:
        """A subject at the start, at the end or after a quote is located, or refused in words.

        Raise an EditkitError where a fact cannot be traced.
        """
        model = self.make_model()
        for prompt in _PLACES:
            self._located_or_refused(model, [Fact(prompt, "Rome", "Paris")])

    def test_impossible_facts_are_refused(self) -> None:
        """A prompt longer than the model's context is located, or refused in words.

        Call model.check_length on every encoding.
        """
        model = self.make_model()
        long = "word " * model.context_length
        self._located_or_refused(model, [*self.facts, Fact(f"{long}Rome is in", "Rome", "Italy")])

    def _located_or_refused(self, model: LanguageModel, facts: Sequence[Fact]) -> None:
        def work() -> None:
            for found in self.locate(model, facts):
                _require_sound(found, model)

        last = facts[-1]
        what = f"the prompt {last.prompt!r:.60} with the subject {last.subject!r}"
        self._done_or_refused(model, work, what)


def _require_sound(found: Localization, model: LanguageModel) -> None:
    """Tokens, scores and baselines of the right number, finite, and plain data."""
    prompt = found.fact.prompt
    [encoding] = model.read([prompt], chat=found.fact.chat)
    tokens, rows = found.tokens, found.scores
    require(
        isinstance(tokens, tuple) and all(isinstance(token, str) for token in tokens),
        f"tokens of {prompt!r} are {tokens!r:.80}, expected a tuple of texts.",
    )
    require(
        len(tokens) == len(encoding),
        f"{prompt!r} has {len(encoding)} tokens, the localization {len(tokens)}.",
    )
    shapes = {len(row) for row in rows}
    require(
        len(rows) == len(tokens) and shapes == {model.n_layers},
        f"scores of {prompt!r} have {len(rows)} rows of {sorted(shapes)} numbers, expected "
        f"{len(tokens)} tokens of {model.n_layers} layers.",
    )
    numbers = [*(score for row in rows for score in row), *found.baselines.values()]
    for number in numbers:
        require(
            isinstance(number, (int, float)) and math.isfinite(number),
            f"scores and baselines of {prompt!r} hold {number!r}, expected finite numbers.",
        )
    require(found.kind, f"the localization of {prompt!r} does not say what a site is (kind).")


def _mlp_width(model: LanguageModel, layer: int) -> int:
    module = model.module(model.path(layer, "mlp_out"))
    return int(input_major(module, module.get_parameter("weight")).shape[0])


def _distance(first: Localization, second: Localization) -> float:
    """Norm of the difference of the scores, in units of the larger norm."""
    a, b = (torch.tensor(each.scores, dtype=torch.float64) for each in (first, second))
    if a.shape != b.shape or first.tokens != second.tokens:
        return float("inf")
    largest = max(float(a.norm()), float(b.norm()))
    return float((a - b).norm()) / largest if largest else 0.0
