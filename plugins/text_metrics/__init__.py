"""What edited models write, and how well they read: fluency, consistency, essence.

The scores are documented in ``docs/metrics.md``.
"""

from __future__ import annotations

from editkit import MetricSpec, Score, hookimpl

_CONFIGS = "editkit_plugins.text_metrics.config"


@hookimpl
def editkit_metrics() -> list[MetricSpec]:
    """Offer ``fluency``, ``consistency`` and ``essence``."""
    return [
        MetricSpec(
            name="fluency",
            factory="editkit_plugins.text_metrics.fluency:Fluency",
            config=f"{_CONFIGS}:GenerationConfig",
            summary="does the edited model still write, or does it repeat itself?",
            scores=(Score("fluency/entropy", "GE"),),
            protocol="counterfact/ngram-entropy/treebank-words-of-punctuated-sentences/v2",
        ),
        MetricSpec(
            name="consistency",
            factory="editkit_plugins.text_metrics.consistency:Consistency",
            config=f"{_CONFIGS}:GenerationConfig",
            summary="does it write as texts about subjects with the new object do?",
            scores=(Score("consistency/reference", "RS"),),
            protocol="counterfact/tfidf-unigram-cosine/v2",
            corpus="reference",
        ),
        MetricSpec(
            name="essence",
            factory="editkit_plugins.text_metrics.essence:Essence",
            config=f"{_CONFIGS}:EssenceConfig",
            summary="how surprising are texts about the subject to the edited model?",
            scores=(Score("essence/perplexity", "perplexity", higher_is_better=False, scale=1.0),),
            protocol="counterfact/perplexity-of-joined-texts/v1",
        ),
    ]
