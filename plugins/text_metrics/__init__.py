"""Metrics of texts: ``fluency``, ``consistency`` and ``essence`` (``docs/metrics.md``)."""

from __future__ import annotations

from editkit import MetricSpec, Score, hookimpl

_CONFIGS = "editkit_plugins.text_metrics.config"
_METRICS = "editkit_plugins.text_metrics.metrics"


@hookimpl
def editkit_metrics() -> list[MetricSpec]:
    """Register ``fluency``, ``consistency`` and ``essence``."""
    return [
        MetricSpec(
            name="fluency",
            factory=f"{_METRICS}:Fluency",
            config=f"{_CONFIGS}:GenerationConfig",
            summary="is the edited model's text diverse, or does it repeat itself?",
            scores=(
                Score(
                    "fluency/entropy",
                    "GE",
                    bounds=(0.0, None),
                    name="fluency",
                    description="mean entropy of the bigrams and trigrams that the model "
                    "writes, in bits",
                ),
            ),
            protocol="counterfact/ngram-entropy/treebank-words-of-punctuated-sentences/v2",
        ),
        MetricSpec(
            name="consistency",
            factory=f"{_METRICS}:Consistency",
            config=f"{_CONFIGS}:GenerationConfig",
            summary="does its text resemble texts about subjects with the new object?",
            scores=(
                Score(
                    "consistency/reference",
                    "RS",
                    name="consistency",
                    description="TF-IDF similarity of what the model writes to texts about "
                    "subjects with the new object",
                ),
            ),
            protocol="counterfact/tfidf-unigram-cosine/v2",
            corpus="reference",
        ),
        MetricSpec(
            name="essence",
            factory=f"{_METRICS}:Essence",
            config=f"{_CONFIGS}:EssenceConfig",
            summary="how surprising are texts about the subject to the edited model?",
            scores=(
                Score(
                    "essence/perplexity",
                    "Essence",
                    higher_is_better=None,  # a drift from the unedited model's, in any direction
                    scale=1.0,
                    name="essence",
                    description="perplexity of texts about the subject; the nearer to the unedited "
                    "model's, the less the edit changed what the subject is",
                ),
            ),
            protocol="counterfact/perplexity-of-joined-texts/v1",
        ),
    ]
