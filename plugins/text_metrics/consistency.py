"""RS: are generated texts like texts about subjects that really have the new object?

The cosine of two TF-IDF vectors of single words (Meng et al. 2022): of all texts that the edited
model wrote, and of all reference texts of the record. How much a word counts is learned from all
reference texts of the dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from editkit import EditedModels, Metric, MetricRow, PluginError, Record
from editkit_plugins.text_metrics.config import GenerationConfig
from editkit_plugins.text_metrics.writing import KEY, written


class Consistency(Metric[GenerationConfig]):
    """RS: TF-IDF similarity of what is written to the reference texts, from 0 to 1."""

    def __init__(self, config: GenerationConfig) -> None:
        super().__init__(config)
        self._vectorizer: Any = None

    def prepare(self, texts: Mapping[str, Sequence[str]]) -> None:
        """Learn how much each word counts, from the dataset's reference texts."""
        self._vectorizer = fitted(texts["reference"])

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The similarity of each record's texts to its reference texts, and the texts.

        Raises:
            PluginError: :meth:`prepare` was not called.
        """
        if self._vectorizer is None:
            raise PluginError(
                "metric 'consistency' was not prepared.",
                hint="Call prepare(records.texts) with the dataset's texts first.",
            )
        rows: list[MetricRow] = []
        for record, texts in zip(records, written(models, records, self.config), strict=True):
            references = record.texts.get("reference", ())
            if texts and references:
                value = similarity(self._vectorizer, texts, references)
                rows.append({"consistency/reference": value, KEY: texts})
            else:
                rows.append({KEY: texts} if texts else {})
        return rows


def fitted(corpus: Sequence[str]) -> Any:
    """A vectoriser of words of two letters or more, lower case, with smoothed idf."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer().fit(corpus)


def similarity(vectorizer: Any, texts: Sequence[str], references: Sequence[str]) -> float:
    """Cosine of the joined texts' vectors; 0 where one of them holds no known word."""
    ours, theirs = vectorizer.transform([" ".join(texts), " ".join(references)])  # of length 1
    return float((ours @ theirs.T).sum())
