"""The locator ``knowledge-neurons``: how much of a prediction each layer's neurons carry."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from editkit import Fact, Localization, Locator
from editkit.models import LanguageModel
from editkit_plugins.kn.attribution import (
    Query,
    attribute,
    neurons_above_threshold,
    predictions,
    target_tokens,
)
from editkit_plugins.kn.config import KnowledgeNeuronsConfig


class KnowledgeNeuronsLocator(Locator[KnowledgeNeuronsConfig]):
    """Integrated gradients of the answer's probability (Dai et al. 2022, section 3)."""

    def locate(self, model: LanguageModel, facts: Sequence[Fact]) -> list[Localization]:
        """One localization per fact, read at the prompt's last token.

        A layer's effect is the sum over its neurons, which by the completeness of integrated
        gradients approximates how far the answer's probability falls when all of them are silent.
        ``neurons`` holds those above the threshold.

        Raises:
            ModelError: A prompt is longer than the model's context.
        """
        if not facts:
            return []
        chats = [fact.chat for fact in facts]
        prompts = [fact.prompt for fact in facts]
        guesses = predictions(model, prompts, chats)
        encodings = model.read(prompts, chat=chats)
        targets = [
            (guess,)
            if fact.answer is None
            else target_tokens(
                model,
                fact.prompt,
                fact.answer,
                self.config,
                separator=fact.separator,
                chat=fact.chat,
            )
            for fact, (guess, _) in zip(facts, guesses, strict=True)
        ]
        queries = [Query(e.ids, t) for e, t in zip(encodings, targets, strict=True)]
        tables = attribute(model, queries, self.config)  # (L, D) each
        localizations = []
        for fact, encoding, target, table, (_, probabilities) in zip(
            facts, encodings, targets, tables, guesses, strict=True
        ):
            neurons = [
                (*place, float(table[place]))
                for place in neurons_above_threshold(table, self.config)
            ]
            neurons.sort(key=lambda neuron: -neuron[2])
            untraced = (0.0,) * model.n_layers
            layers = tuple(table.sum(dim=1).tolist())
            localizations.append(
                Localization(
                    fact=fact,
                    tokens=encoding.texts,
                    kind="neuron",
                    scores=(*[untraced] * (len(encoding) - 1), layers),
                    baselines={"clean": float(probabilities[torch.tensor(target)].mean())},
                    neurons=tuple(neurons[: self.config.most_neurons]),
                    answer=model.tokenizer.decode(target),
                )
            )
        return localizations
