"""The metric ``sentence-perplexity``: the alarm of Yang et al. 2024 (arXiv 2402.09656).

For texts x^1, ..., x^S with T_s tokens each::

    PPL_s(f)  = exp(-1/(T_s - 1) sum over i >= 2 of log p_f(x^s_i | x^s_<i))
    mean(f)   = 1/S sum over s of PPL_s(f)
    ratio     = mean(f) / mean(f_0)            f_0: the unedited model
    collapsed = 1 if mean(f) > threshold, else 0

The arithmetic mean of perplexities: one text that a model finds impossible is enough to raise it
without bound. ``perplexity`` is the mean over tokens of the same texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from editkit import EditedModels, LanguageModel, MetricRow, ModelMetric
from editkit_plugins.model_health.config import SentencePerplexityConfig
from editkit_plugins.model_health.perplexity import per_token, texts_nll
from editkit_plugins.model_health.unedited import OfUnedited


class SentencePerplexity(ModelMetric[SentencePerplexityConfig]):
    """Mean of the perplexities of single texts, and whether it is above an absolute threshold."""

    def __init__(self, config: SentencePerplexityConfig) -> None:
        super().__init__(config)
        self._unedited = OfUnedited(lambda models: self._by_text(models, [0])[0])

    def prepare(self, model: LanguageModel) -> None:
        """Read the texts with the unedited model."""
        self._unedited.of(model)

    def score(self, models: EditedModels) -> list[MetricRow]:
        """Mean perplexity, its ratio to the unedited model's, and the perplexity of each text."""
        before = fmean(self._unedited.of(models.model))
        return [self._row(before, texts) for texts in self._by_text(models, range(len(models)))]

    def _row(self, before: float, texts: list[float]) -> MetricRow:
        mean = fmean(texts)
        return {
            "sentence_perplexity/mean": mean,
            "sentence_perplexity/ratio": mean / before,
            "sentence_perplexity/collapsed": float(mean > self.config.threshold),
            "sentence_perplexity/by_text": texts,
        }

    def _by_text(self, models: EditedModels, edits: Sequence[int]) -> list[list[float]]:
        config = self.config
        rows = texts_nll(models, edits, config.corpus, config.texts, config.tokens)
        return [[math.exp(per_token([text])) for text in row] for row in rows]
