"""The metric ``drift``: how far did the model move where nothing was edited?

For each prompt x, p_0 is the unedited model's distribution of the next token, p the edited one's::

    KL(x) = sum over tokens t of p_0(t | x) (log p_0(t | x) - log p(t | x))     in nats

The scores are the mean of KL over the prompts, its 99th percentile (with linear interpolation), and
the share of prompts whose most likely next token is another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from editkit import EditedModels, LanguageModel, MetricRow, ModelMetric
from editkit.models.encoding import chunks_by_tokens, padded
from editkit.models.running import forward
from editkit_plugins.model_health.config import DriftConfig
from editkit_plugins.model_health.unedited import OfUnedited, bounded, first_texts

_PERCENTILE = 0.99
_ROUNDING = 1e-4  # nats: a smaller divergence is not listed
_LOGITS_AT_ONCE = 512  # positions; for GPT-2's vocabulary about 100 MB


@dataclasses.dataclass(frozen=True)
class _Query:
    """A prompt for one edited model.

    Attributes:
        edit: Number of the edited model that answers.
        place: Index of the prompt.
        ids: Its tokens.
    """

    edit: int
    place: int
    ids: tuple[int, ...]


class _Answer(NamedTuple):
    divergence: float
    top: int


class _Unedited(NamedTuple):
    """What the unedited model answers.

    Attributes:
        prompts: The prompts.
        ids: Tokens of each prompt.
        log_p: (prompts, vocabulary), on the CPU.
    """

    prompts: list[str]
    ids: list[tuple[int, ...]]
    log_p: Tensor


class Drift(ModelMetric[DriftConfig]):
    """Divergence of next-token distributions from the unedited model's, on neutral prompts."""

    def __init__(self, config: DriftConfig) -> None:
        super().__init__(config)
        self._unedited = OfUnedited(self._measure)

    def prepare(self, model: LanguageModel) -> None:
        """Read the prompts with the unedited model."""
        self._unedited.of(model)

    def score(self, models: EditedModels) -> list[MetricRow]:
        """Mean and 99th percentile of KL, changed top tokens, KL by prompt, and largest movers."""
        before = self._unedited.of(models.model)
        queries = [
            _Query(edit, place, ids)
            for edit in range(len(models))
            for place, ids in enumerate(_read_as(models, edit, before))
        ]

        def ask(some: EditedModels, asked: Sequence[_Query]) -> list[_Answer]:
            answers: dict[_Query, _Answer] = {}
            for batch, log_p in _next_log_p(some, asked):
                old = before.log_p[[query.place for query in batch]].to(log_p)  # (N, V)
                terms = old.exp() * (old - log_p)
                divergence = terms.masked_fill(old.isneginf(), 0.0).sum(dim=-1)  # (N,)
                tops = log_p.argmax(dim=-1)  # (N,)
                values = map(_Answer, divergence.tolist(), tops.tolist())
                answers.update(zip(batch, values, strict=True))
            return [answers[query] for query in asked]

        answers = iter(models.answers(ask, queries))
        return [self._row(models.model, before, [next(answers) for _ in before.ids])
                for _ in range(len(models))]  # fmt: skip

    def _measure(self, models: EditedModels) -> _Unedited:
        prompts = first_texts(self.config.corpus, self.config.prompts)
        encodings = models.model.read(prompts)
        for encoding in encodings:
            models.model.check_length(encoding)
        ids = [encoding.ids for encoding in encodings]
        log_p = torch.empty(len(ids), 0)
        queries = [_Query(0, place, each) for place, each in enumerate(ids)]
        for batch, values in _next_log_p(models, queries):
            log_p = log_p if log_p.numel() else torch.empty(len(ids), values.shape[1])
            log_p[[query.place for query in batch]] = values.cpu()
        return _Unedited(prompts, ids, log_p)

    def _row(
        self, model: LanguageModel, before: _Unedited, answers: Sequence[_Answer]
    ) -> MetricRow:
        divergences = [max(0.0, bounded(answer.divergence)) for answer in answers]
        old_tops = before.log_p.argmax(dim=-1).tolist()
        changed = [answer.top != top for answer, top in zip(answers, old_tops, strict=True)]
        moved = [place for place, divergence in enumerate(divergences) if divergence > _ROUNDING]
        largest = sorted(moved, key=lambda place: -divergences[place])[: self.config.movers]
        decode = model.tokenizer.decode
        return {
            "drift/kl_mean": fmean(divergences),
            "drift/kl_p99": percentile(divergences, _PERCENTILE),
            "drift/top_changed": fmean(changed),
            "drift/kl": divergences,
            "drift/largest": [
                f"{before.prompts[place]!r}: {decode([old_tops[place]])!r} -> "
                f"{decode([answers[place].top])!r}"
                for place in largest
            ],
            "drift/largest_kl": [divergences[place] for place in largest],
        }


def _read_as(models: EditedModels, edit: int, before: _Unedited) -> Sequence[tuple[int, ...]]:
    """The tokens of the prompts, after the texts that an edit puts before them."""
    if models.deltas[edit].context is None:
        return before.ids
    encodings = models.model.read([models.in_context(edit, prompt) for prompt in before.prompts])
    for prompt, encoding in zip(before.prompts, encodings, strict=True):
        models.check_length(edit, encoding, prompt)
    return [encoding.ids for encoding in encodings]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of all values lies, with linear interpolation."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(share))


def _next_log_p(
    models: EditedModels, queries: Sequence[_Query]
) -> Iterator[tuple[list[_Query], Tensor]]:
    """Log probabilities of the next token, in batches of queries: (N, vocabulary)."""
    model = models.model
    for batch in chunks_by_tokens([len(query.ids) for query in queries], models.token_budget):
        for start in range(0, len(batch), _LOGITS_AT_ONCE):
            chosen = [queries[number] for number in batch[start : start + _LOGITS_AT_ONCE]]
            ids = padded([query.ids for query in chosen], model.device)  # (N, T)
            last = torch.tensor([len(query.ids) - 1 for query in chosen], device=ids.device)
            with model.frozen(), torch.no_grad():
                with models.rows([query.edit for query in chosen], in_context=True):
                    states = forward(model, ids)[torch.arange(len(chosen), device=ids.device), last]
                log_p = torch.log_softmax(model.head(states), dim=-1)  # (N, V)
            yield chosen, log_p
