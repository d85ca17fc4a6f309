"""The metric ``drift``: how far did the model move where nothing was edited?

For each prompt x, KL(x) is the divergence of the edited model's distribution of the next token from
the unedited one's, in nats (:mod:`editkit.editing.next_tokens` has the formula).

The scores are the mean of KL over the prompts, its 99th percentile (with linear interpolation), and
the share of prompts whose most likely next token is another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from editkit import EditedModels, LanguageModel, MetricRow, ModelMetric
from editkit.editing.next_tokens import bounded, kl_divergences, next_log_p, prompts_as_read
from editkit_plugins.model_health.config import DriftConfig
from editkit_plugins.model_health.unedited import OfUnedited, first_texts

_PERCENTILE = 0.99
_ROUNDING = 1e-4  # nats: a smaller divergence is not listed


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
            for place, ids in enumerate(
                before.ids
                if models.deltas[edit].context is None
                else prompts_as_read(models, edit, before.prompts)
            )
        ]

        def ask(some: EditedModels, asked: Sequence[_Query]) -> list[_Answer]:
            answers: dict[_Query, _Answer] = {}
            for batch, log_p in next_log_p(some, asked):
                old = before.log_p[[query.place for query in batch]].to(log_p)  # (N, V)
                tops = log_p.argmax(dim=-1)  # (N,)
                values = map(_Answer, kl_divergences(old, log_p).tolist(), tops.tolist())
                answers.update(zip(batch, values, strict=True))
            return [answers[query] for query in asked]

        answers = iter(models.answers(ask, queries))
        return [self._row(models.model, before, [next(answers) for _ in before.ids])
                for _ in range(len(models))]  # fmt: skip

    def _measure(self, models: EditedModels) -> _Unedited:
        prompts = first_texts(self.config.corpus, self.config.prompts)
        ids = prompts_as_read(models, 0, prompts)
        log_p = torch.empty(len(ids), 0)
        queries = [_Query(0, place, each) for place, each in enumerate(ids)]
        for batch, values in next_log_p(models, queries):
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


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of all values lies, with linear interpolation."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(share))
