"""The locators ``saliency`` and ``integrated-gradients``: gradients of an answer's probability."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from editkit import Fact, Localization, Locator
from editkit.models import LanguageModel
from editkit.models.running import Tail, forward, recording, replacing
from editkit_plugins.tracing.config import IntegratedGradientsConfig, SaliencyConfig
from editkit_plugins.tracing.questions import Question, questions

_VALUES_PER_TOKEN = 32  # of H values each: what a block keeps of a token for the backward pass


class SaliencyLocator(Locator[SaliencyConfig]):
    """How strongly the answer's probability reacts to each hidden state (Simonyan et al. 2014)."""

    def locate(self, model: LanguageModel, facts: Sequence[Fact]) -> list[Localization]:
        """Norms of gradients, or of their products with the states, at every block's output.

        Raises:
            RequestError: A subject stands in its prompt twice.
            ModelError: A prompt is longer than the model's context.
        """
        found = []
        with model.frozen(), torch.enable_grad():
            for question in questions(model, facts, answer_tokens=self.config.answer_tokens):
                states, gradients, clean = _states_and_gradients(model, question)
                if self.config.measure == "norm":
                    scores = gradients.norm(dim=-1)  # (L, T)
                else:
                    scores = (gradients * states).sum(dim=-1).abs()
                found.append(_localization(model, question, scores.T, clean))
        return found


class IntegratedGradientsLocator(Locator[IntegratedGradientsConfig]):
    """What each hidden state contributes on the way from a baseline (Sundararajan et al. 2017)."""

    def locate(self, model: LanguageModel, facts: Sequence[Fact]) -> list[Localization]:
        """Contributions of the states of a layer, which are moved from the baseline together.

        Over the tokens they sum up to what the answer's probability gains on that way, but for the
        error of the sum over steps.

        Raises:
            RequestError: A subject stands in its prompt twice.
            ModelError: A prompt is longer than the model's context.
        """
        found = []
        with model.frozen(), torch.enable_grad():
            for question in questions(model, facts, answer_tokens=self.config.answer_tokens):
                scores, clean = self._integrated(model, question)
                found.append(_localization(model, question, scores, clean))
        return found

    def _integrated(self, model: LanguageModel, question: Question) -> tuple[Tensor, float]:
        """Contributions, (T, L), and the clean probability."""
        ids = torch.tensor([question.ids], device=model.device)  # (1, T)
        starts = torch.zeros(1, dtype=torch.long, device=model.device)
        blocks = [model.architecture.block(layer) for layer in range(model.n_layers)]
        with torch.no_grad(), recording(model, blocks) as seen:
            tail = Tail.record(model, None, ids, starts, start=1)
        steps = self.config.steps
        points = (torch.arange(steps, device=model.device) + 0.5) / steps  # midpoints
        clean = 0.0
        columns = []
        for layer, block in enumerate(blocks):
            states = seen[block].output.float()  # (1, T, H)
            start = torch.zeros_like(states)
            if self.config.baseline == "mean":
                start = states.mean(dim=1, keepdim=True).expand_as(states)
            total = torch.zeros_like(states)
            for chunk in points.split(self._points_together(model, ids.shape[1])):
                path = start + chunk[:, None, None] * (states - start)  # (S, T, H)
                leaf = path.to(model.dtype).detach().requires_grad_()
                rows = torch.zeros(len(chunk), dtype=torch.long, device=model.device)
                part = tail.above(layer + 1, seen[block].output).select(rows)
                final = model.final_hidden(part.run(leaf))
                probability = _probability(model, final, question).sum()
                [gradient] = torch.autograd.grad(probability, leaf)
                total += gradient.float().sum(dim=0, keepdim=True)
            columns.append(((states - start) * total / steps).sum(dim=-1)[0])  # (T,)
            if layer == len(blocks) - 1:
                with torch.no_grad():
                    final = model.final_hidden(seen[block].output)
                    clean = float(_probability(model, final, question))
        return torch.stack(columns, dim=1), clean

    def _points_together(self, model: LanguageModel, tokens: int) -> int:
        itemsize = model.dtype.itemsize
        one = _VALUES_PER_TOKEN * tokens * model.hidden_size * model.n_layers * itemsize
        vocabulary = 12 * int(model.hf.config.vocab_size)
        return max(1, self.config.memory_mb * 2**20 // (one + vocabulary))


def _states_and_gradients(model: LanguageModel, question: Question) -> tuple[Tensor, Tensor, float]:
    """Outputs of all blocks and the probability's gradients at them, (L, T, H), float32."""
    ids = torch.tensor([question.ids], device=model.device)  # (1, T)
    blocks = [model.architecture.block(layer) for layer in range(model.n_layers)]
    begun = {model.architecture.embedding: lambda _, output: output.detach().requires_grad_()}
    with replacing(model, begun), recording(model, blocks) as seen:
        probability = _probability(model, forward(model, ids), question)[0]
    states = [seen[block].output for block in blocks]
    gradients = torch.autograd.grad(probability, states, materialize_grads=True)
    rows = [torch.cat([g.to(model.device) for g in each]) for each in (states, gradients)]
    return rows[0].detach().float(), rows[1].float(), float(probability.detach())


def _probability(model: LanguageModel, final: Tensor, question: Question) -> Tensor:
    """Probability of the answer from states after the final norm, (B, T, H) to (B,)."""
    answer = torch.tensor(question.answer, device=model.device)
    first = len(question.prompt) - 1
    logits = model.head(final[:, first : first + len(answer)])  # (B, A, V)
    log_p = torch.log_softmax(logits, dim=-1)
    places = torch.arange(len(answer), device=log_p.device)
    return log_p[:, places, answer].sum(dim=-1).exp()


def _localization(
    model: LanguageModel, question: Question, scores: Tensor, clean: float
) -> Localization:
    prompt = scores[: len(question.prompt)].detach().cpu().double()  # (T, L)
    return Localization(
        fact=question.fact,
        tokens=question.tokens,
        kind="state",
        scores=tuple(tuple(row) for row in prompt.tolist()),
        baselines={"clean": clean, "predicted": float(question.predicted)},
        subject=question.subject,
        answer=model.tokenizer.decode(question.answer),
    )
