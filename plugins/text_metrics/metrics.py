"""Metrics of texts: fluency and consistency of what edited models write, and essence.

Meng et al. 2022, section 3.3 (GE, RS); first version, section 5.2 (essence)::

    H_n       = - sum over n-grams k of f(k) log2 f(k)        ngram_entropy; f: relative frequency
    GE        = mean over texts of (2/3 H_2 + 4/3 H_3) / 2    combined_entropy
    RS        = cos(tfidf(generated), tfidf(reference))       similarity; texts joined, unigrams
    essence   = exp(- sum of log p(token) / N)                Essence; texts joined

Entropies are in bits. The published text weights H_2 and H_3 by 1/3 and 2/3, which is the same. N
counts the first token, which has no prediction, as in the published code (``divisor``).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any

from editkit import EditedModels, Metric, MetricRow, PluginError, Record
from editkit.editing.edited_models import GenerationQuery, TextQuery
from editkit.editing.generation import in_published_form
from editkit_plugins.text_metrics.config import EssenceConfig, GenerationConfig

_TEXTS = "generation"
"""Key of the generated texts in a row, and kind of a record's generation prompts."""

_NGRAM_WEIGHTS = {2: 2 / 3, 3: 4 / 3}
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+")
_MAX_EXPONENT = 700.0  # exp of more overflows double precision


def generated_texts(
    models: EditedModels, records: Sequence[Record], config: GenerationConfig
) -> list[list[str]]:
    """For each record, its edited model's texts, one per generation prompt.

    The models cache their texts, so metrics with the same configuration share them.
    """
    queries = [
        GenerationQuery(edit, prompt, f"{record.case_id}/{place}", record.request.chat)
        for edit, record in enumerate(records)
        for place, prompt in enumerate(record.texts.get(_TEXTS, ()))
    ]
    answers = models.generate(queries, tokens=config.tokens, top_k=config.top_k)
    texts: list[list[str]] = [[] for _ in records]
    for query, text in zip(queries, answers, strict=True):
        form = None if config.normalization == "none" else config.normalization
        texts[query.edit].append(in_published_form(text, form=form))
    return texts


# ---------------------------------------------------------------- fluency


class Fluency(Metric[GenerationConfig]):
    """GE: mean n-gram entropy of a record's texts, in bits. It falls when a model repeats itself.

    The n-gram entropy as a measure of diversity is from Zhang et al. 2018.
    """

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The entropy of each record; as details, the entropy of each text, and the texts."""
        rows: list[MetricRow] = []
        for texts in generated_texts(models, records, self.config):
            entropies = [combined_entropy(words(text)) for text in texts]
            rows.append(
                {
                    "fluency/entropy": fmean(entropies),
                    "fluency/entropies": entropies,
                    _TEXTS: texts,
                }
                if texts
                else {}
            )
        return rows


def combined_entropy(tokens: Sequence[str]) -> float:
    """Mean of the bi- and trigram entropies, weighted by 2/3 and 4/3, in bits."""
    return fmean(weight * ngram_entropy(tokens, n) for n, weight in _NGRAM_WEIGHTS.items())


def ngram_entropy(tokens: Sequence[str], n: int) -> float:
    """Entropy of the n-gram distribution of a text in bits; 0 if the text has no n-gram."""
    counts = Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values()) + 0.0


def words(text: str) -> list[str]:
    """Words and punctuation marks of a text, split as in the Penn Treebank ("is", "n't").

    Sentences end at ``.``, ``!`` or ``?`` before white space. The published code finds sentences
    with a trained model that knows abbreviations and must be downloaded; this rule needs no data.
    """
    tokenizer = _treebank_tokenizer()
    sentences = _SENTENCE_ENDS.split(text)
    return [token for sentence in sentences for token in tokenizer.tokenize(sentence)]


@cache
def _treebank_tokenizer() -> Any:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()


# ---------------------------------------------------------------- consistency


class Consistency(Metric[GenerationConfig]):
    """RS: TF-IDF similarity, 0 to 1, of a record's texts to texts about the new object.

    Word weights are fitted on all reference texts of the dataset.
    """

    def __init__(self, config: GenerationConfig) -> None:
        super().__init__(config)
        self._vectorizer: Any = None

    def prepare(self, texts: Mapping[str, Sequence[str]]) -> None:
        """Fit the word weights on the dataset's reference texts."""
        self._vectorizer = fitted(texts["reference"])

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The similarity of each record that has reference texts, and the generated texts.

        Raises:
            PluginError: :meth:`prepare` was not called.
        """
        if self._vectorizer is None:
            raise PluginError(
                "metric 'consistency' is not prepared.",
                hint="Call prepare(records.texts) with the dataset's texts first.",
            )
        rows: list[MetricRow] = []
        all_texts = generated_texts(models, records, self.config)
        for record, texts in zip(records, all_texts, strict=True):
            references = record.texts.get("reference", ())
            if texts and references:
                value = similarity(self._vectorizer, texts, references)
                rows.append({"consistency/reference": value, _TEXTS: texts})
            else:
                rows.append({_TEXTS: texts} if texts else {})
        return rows


def fitted(corpus: Sequence[str]) -> Any:
    """A TF-IDF vectorizer for lower-case words of two or more letters, with smoothed idf."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer().fit(corpus)


def similarity(vectorizer: Any, texts: Sequence[str], references: Sequence[str]) -> float:
    """Cosine of the vectors of the joined texts; 0 if one of them has no known word."""
    ours, theirs = vectorizer.transform([" ".join(texts), " ".join(references)])  # unit vectors
    return float((ours @ theirs.T).sum())


# ---------------------------------------------------------------- essence


class Essence(Metric[EssenceConfig]):
    """Perplexity of texts about the subject. It rises if an edit changes what the subject is."""

    def score(self, models: EditedModels, records: Sequence[Record]) -> list[MetricRow]:
        """The perplexity for each record that has essence texts."""
        queries = [
            TextQuery(edit, " ".join(record.texts["essence"]))
            for edit, record in enumerate(records)
            if record.texts.get("essence")
        ]
        limit = min(self.config.max_tokens, models.model.context_length)
        rows: list[MetricRow] = [{} for _ in records]
        for query, nll in zip(queries, models.text_nll(queries, max_tokens=limit), strict=True):
            if nll:
                n = len(nll) + (self.config.divisor == "all_tokens")
                exponent = min(math.fsum(nll) / n, _MAX_EXPONENT)
                rows[query.edit] = {"essence/perplexity": math.exp(exponent)}
        return rows
