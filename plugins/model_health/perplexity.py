"""The metric ``perplexity``: does the model still predict plain text?

For texts x^1, ..., x^S with T_s tokens each::

    NLL(f) = sum over s and i >= 2 of -log p_f(x^s_i | x^s_<i)  /  sum over s of (T_s - 1)
    PPL(f) = exp(NLL(f))
    ratio  = PPL(f) / PPL(f_0)            f_0: the unedited model
    collapsed = 1 if ratio > threshold, else 0

Yang et al. 2024 (arXiv 2402.09656) propose perplexity as the alarm for models that edits broke.
They average the perplexities of single sentences, of which one broken sentence dominates the mean
(:mod:`.sentence_perplexity`); here every token counts the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from editkit import ConfigError, EditedModels, LanguageModel, MetricRow, ModelMetric
from editkit.editing.edited_models import TextQuery
from editkit.editing.next_tokens import bounded
from editkit_plugins.model_health.config import PerplexityConfig
from editkit_plugins.model_health.unedited import OfUnedited, first_texts


class Perplexity(ModelMetric[PerplexityConfig]):
    """Perplexity of fixed plain texts, and whether the model collapsed."""

    def __init__(self, config: PerplexityConfig) -> None:
        super().__init__(config)
        self._unedited = OfUnedited(lambda models: self._nll(models, [0])[0])

    def prepare(self, model: LanguageModel) -> None:
        """Read the texts with the unedited model."""
        self._unedited.of(model)

    def score(self, models: EditedModels) -> list[MetricRow]:
        """Perplexity, its ratio to the unedited model's, and the mean NLL of each text in nats."""
        before = per_token(self._unedited.of(models.model))
        return [self._row(before, texts) for texts in self._nll(models, range(len(models)))]

    def _row(self, before: float, texts: list[list[float]]) -> MetricRow:
        after = per_token(texts)
        ratio = math.exp(after - before)
        return {
            "perplexity/value": math.exp(after),
            "perplexity/ratio": ratio,
            "perplexity/collapsed": float(ratio > self.config.threshold),
            "perplexity/text_nll": [per_token([text]) for text in texts],
        }

    def _nll(self, models: EditedModels, edits: Sequence[int]) -> list[list[list[float]]]:
        config = self.config
        return texts_nll(models, edits, config.corpus, config.texts, config.tokens)


def texts_nll(
    models: EditedModels, edits: Sequence[int], corpus: str, n_texts: int, tokens: int | None
) -> list[list[list[float]]]:
    """The NLL of each predicted token, by edited model and text; texts of one token are left out.

    Args:
        models: The edited models.
        edits: Numbers of those that read the texts.
        corpus: Source of the texts.
        n_texts: Number of texts, from the beginning of the corpus.
        tokens: Most tokens of a text; None: up to the model's context.

    Raises:
        ConfigError: The corpus cannot be read, or has no text with a prediction.
    """
    texts = first_texts(corpus, n_texts)
    context = models.model.context_length
    limit = context if tokens is None else min(tokens, context)
    queries = [TextQuery(edit, text) for edit in edits for text in texts]
    answers = models.text_nll(queries, max_tokens=limit)
    rows: dict[int, list[list[float]]] = {edit: [] for edit in edits}
    for query, nll in zip(queries, answers, strict=True):
        if nll:
            rows[query.edit].append([bounded(token) for token in nll])
    if not all(rows.values()):
        raise ConfigError(
            f"corpus {corpus!r} has no text of two tokens or more among its first {n_texts}.",
            hint="Give longer texts: the first token has no prediction.",
        )
    return [rows[edit] for edit in edits]


def per_token(texts: list[list[float]]) -> float:
    """Mean over all tokens of all texts."""
    return math.fsum(math.fsum(text) for text in texts) / sum(len(text) for text in texts)
