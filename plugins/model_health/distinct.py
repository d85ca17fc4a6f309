"""The metric ``distinct-n``: does the model still write varied text, or does it repeat itself?

The model continues fixed prompts. Let x^s be the tokens of its s-th continuation, and N_n(x) the
n-grams of tokens in x, as a multiset. Then::

    distinct-n = |set of all n-grams of all x^s| / sum over s of |N_n(x^s)|      n = 2, 3
    repetition = mean over s of 1 - |set(N_4(x^s))| / |N_4(x^s)|

distinct-n is that of Li et al. 2016 (arXiv 1510.03055): it is low if texts repeat themselves or
each other. The repetition is seq-rep-4 of Welleck et al. 2020 (arXiv 1908.04319): it is high if a
single text runs in a loop. A text without n-grams, such as one of end-of-text tokens, has a share
of 0 distinct ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from editkit import EditedModels, MetricRow, ModelMetric
from editkit.editing.edited_models import GenerationQuery
from editkit_plugins.model_health.config import DistinctConfig
from editkit_plugins.model_health.unedited import first_texts

_REPETITION_N = 4


class Distinct(ModelMetric[DistinctConfig]):
    """Share of distinct n-grams in what the model writes from fixed prompts."""

    def score(self, models: EditedModels) -> list[MetricRow]:
        """distinct-2, distinct-3, repetition, repetition by text, and the texts."""
        config = self.config
        prompts = first_texts(config.corpus, config.prompts)
        queries = [
            GenerationQuery(edit, prompt, f"distinct-n/{place}")
            for edit in range(len(models))
            for place, prompt in enumerate(prompts)
        ]
        texts = models.generate(queries, tokens=config.tokens, top_k=config.top_k)
        written = [
            text.removeprefix(query.prompt) for query, text in zip(queries, texts, strict=True)
        ]
        special = models.model.special.ids
        tokens = [
            [token for token in encoding.ids if token not in special]
            for encoding in models.model.encode(written, empty=True)
        ]
        n = len(prompts)
        return [self._row(tokens[start : start + n], texts[start : start + n])
                for start in range(0, len(queries), n)]  # fmt: skip

    def _row(self, tokens: Sequence[Sequence[int]], texts: list[str]) -> MetricRow:
        repetitions = [1 - distinct([text], _REPETITION_N) for text in tokens]
        return {
            "distinct_n/bigrams": distinct(tokens, 2),
            "distinct_n/trigrams": distinct(tokens, 3),
            "distinct_n/repetition": fmean(repetitions),
            "distinct_n/repetitions": repetitions,
            "distinct_n/texts": texts,
        }


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """Share of distinct n-grams among those of all texts; 0 if there are none."""
    every = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(every)) / len(every) if every else 0.0


def _ngrams(tokens: Sequence[int], n: int) -> Iterator[tuple[int, ...]]:
    return zip(*(tokens[start:] for start in range(n)), strict=False)
