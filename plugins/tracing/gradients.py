"""The locators ``saliency`` and ``integrated-gradients``, which the ROME paper compares with.

P is the probability of the answer, as a function of the hidden states h_i^(l) of one layer:

    saliency              |dP / dh_i|, or |h_i . dP / dh_i|             Simonyan et al. (2014)
    integrated-gradients  (h_i - h'_i) . integral of dP / dh_i along the straight path from a
                          baseline h' to h, where all tokens of the layer move together
                                                                       Sundararajan et al. (2017)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from editkit import Fact, Localization, Locator
from editkit.models import LanguageModel
from editkit.models.running import Tail, forward, recording, replacing
from editkit_plugins.tracing.config import GradientConfig, IntegratedGradientsConfig, SaliencyConfig
from editkit_plugins.tracing.tokenized_facts import TokenizedFact, tokenize_facts

_VALUES_PER_TOKEN = 32  # in units of H: what a block keeps per token for the backward pass

GradientConfigT = TypeVar("GradientConfigT", bound=GradientConfig)


class _GradientLocator(Locator[GradientConfigT]):
    def locate(self, model: LanguageModel, facts: Sequence[Fact]) -> list[Localization]:
        """Score every block's output, one localization per fact; baseline ``clean`` is P.

        Raises:
            RequestError: A prompt contains its subject twice.
            ModelError: A prompt is longer than the model's context.
        """
        localizations = []
        with model.frozen(), torch.enable_grad():
            for fact in tokenize_facts(model, facts, answer_tokens=self.config.answer_tokens):
                scores, clean = self._score(model, fact)
                localizations.append(fact.localization(model, "state", scores, {"clean": clean}))
        return localizations

    @abstractmethod
    def _score(self, model: LanguageModel, fact: TokenizedFact) -> tuple[Tensor, float]:
        """Scores, (T + A - 1, L), and P."""


class SaliencyLocator(_GradientLocator[SaliencyConfig]):
    """How strongly the answer's probability reacts to each hidden state."""

    def _score(self, model: LanguageModel, fact: TokenizedFact) -> tuple[Tensor, float]:
        ids = torch.tensor([fact.ids], device=model.device)  # (1, T)
        blocks = [model.architecture.block(layer) for layer in range(model.n_layers)]
        leaf = {model.architecture.embedding: lambda _, output: output.detach().requires_grad_()}
        with replacing(model, leaf), recording(model, blocks) as recorded:
            probability = _answer_probability(model, forward(model, ids), fact)[0]
        outputs = [recorded[block].output for block in blocks]
        slopes = torch.autograd.grad(probability, outputs, materialize_grads=True)
        states, gradients = (
            torch.cat([each.to(model.device) for each in layers]).detach().float()  # (L, T, H)
            for layers in (outputs, slopes)
        )
        if self.config.measure == "norm":
            scores = gradients.norm(dim=-1)  # (L, T)
        else:
            scores = (gradients * states).sum(dim=-1).abs()
        return scores.T, float(probability.detach())


class IntegratedGradientsLocator(_GradientLocator[IntegratedGradientsConfig]):
    """Each hidden state's contribution on the path from a baseline.

    The contributions of a layer sum to P at its states minus P at the baseline, up to the error of
    the midpoint rule.
    """

    def _score(self, model: LanguageModel, fact: TokenizedFact) -> tuple[Tensor, float]:
        ids = torch.tensor([fact.ids], device=model.device)  # (1, T)
        starts = torch.zeros(1, dtype=torch.long, device=model.device)
        blocks = [model.architecture.block(layer) for layer in range(model.n_layers)]
        with torch.no_grad(), recording(model, blocks) as recorded:
            tail = Tail.record(model, None, ids, starts, start=1)
        steps = self.config.steps
        points = (torch.arange(steps, device=model.device) + 0.5) / steps  # midpoints
        clean = 0.0
        contributions = []
        for layer, block in enumerate(blocks):
            states = recorded[block].output.float()  # h, (1, T, H)
            baseline = torch.zeros_like(states)  # h'
            if self.config.baseline == "mean":
                baseline = states.mean(dim=1, keepdim=True).expand_as(states)
            total = torch.zeros_like(states)
            for chunk in torch.split(points, self._points_per_pass(model, ids.shape[1])):
                path = baseline + chunk[:, None, None] * (states - baseline)  # (S, T, H)
                leaf = path.to(model.dtype).detach().requires_grad_()
                rows = torch.zeros(len(chunk), dtype=torch.long, device=model.device)
                above = tail.above(layer + 1, recorded[block].output).select(rows)
                final = model.final_hidden(above.run(leaf))
                probability = _answer_probability(model, final, fact).sum()
                [gradient] = torch.autograd.grad(probability, leaf)
                total += gradient.float().sum(dim=0, keepdim=True)
            contributions.append(((states - baseline) * total / steps).sum(dim=-1)[0])  # (T,)
            if layer == len(blocks) - 1:
                with torch.no_grad():
                    final = model.final_hidden(recorded[block].output)
                    clean = float(_answer_probability(model, final, fact))
        return torch.stack(contributions, dim=1), clean

    def _points_per_pass(self, model: LanguageModel, n_tokens: int) -> int:
        itemsize = model.dtype.itemsize
        one = _VALUES_PER_TOKEN * n_tokens * model.hidden_size * model.n_layers * itemsize
        vocabulary = 12 * int(model.hf.config.vocab_size)
        return max(1, self.config.memory_mb * 2**20 // (one + vocabulary))


def _answer_probability(model: LanguageModel, final: Tensor, fact: TokenizedFact) -> Tensor:
    """P from the states after the final norm, (B, T + A - 1, H) to (B,)."""
    answer = torch.tensor(fact.answer, device=model.device)
    first = len(fact.prompt) - 1
    logits = model.head(final[:, first : first + len(answer)])  # (B, A, V)
    log_p = torch.log_softmax(logits, dim=-1)
    places = torch.arange(len(answer), device=log_p.device)
    return log_p[:, places, answer].sum(dim=-1).exp()
