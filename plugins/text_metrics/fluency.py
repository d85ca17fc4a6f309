"""GE: entropy of the n-grams of generated texts (Meng et al. 2022, after Zhang et al. 2018).

A model that a bad edit broke repeats itself, and the entropy of its bi- and trigrams falls.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from statistics import fmean
from typing import Any

from editkit import EditedModels, Metric, MetricRow, Record
from editkit_plugins.text_metrics.config import GenerationConfig
from editkit_plugins.text_metrics.writing import KEY, written

_WEIGHTS = {2: 2 / 3, 3: 4 / 3}
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+")


class Fluency(Metric[GenerationConfig]):
    """GE: mean over a record's texts of their n-gram entropy, in bits."""

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The entropy of each record's texts, text by text as details, and the texts."""
        all_texts = written(models, records, self.config)
        return [self._row(texts) if texts else {} for texts in all_texts]

    def _row(self, texts: list[str]) -> MetricRow:
        entropies = [combined_entropy(words(text)) for text in texts]
        return {"fluency/entropy": fmean(entropies), "fluency/entropies": entropies, KEY: texts}


def combined_entropy(tokens: Sequence[str]) -> float:
    """Mean of the bi- and trigram entropies, weighted 2/3 and 4/3, in bits."""
    return fmean(weight * ngram_entropy(tokens, n) for n, weight in _WEIGHTS.items())


def ngram_entropy(tokens: Sequence[str], n: int) -> float:
    """Entropy of the distribution of a text's n-grams in bits; 0 where there are none."""
    counts = Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values()) + 0.0


def words(text: str) -> list[str]:
    """Words and signs of a text.

    Sentences end at ``.``, ``!`` or ``?`` before white space, and are split into words as in the
    Penn Treebank ("isn't" is "is", "n't"). The published code finds sentences with a trained model
    instead, which knows abbreviations; ours needs no data that is not installed with it.
    """
    tokenizer = _treebank()
    sentences = _SENTENCE_ENDS.split(text)
    return [token for sentence in sentences for token in tokenizer.tokenize(sentence)]


@cache
def _treebank() -> Any:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()
