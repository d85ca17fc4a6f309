"""What edits left of the model as a whole (``docs/metrics.md``).

``perplexity``, ``drift``, ``change-norm`` and ``distinct-n`` score a model, not a record: all facts
that were written into it share one row.
"""

from __future__ import annotations

from editkit import ModelMetricSpec, Score, hookimpl

_HERE = "editkit_plugins.model_health"
_CONFIGS = f"{_HERE}.config"


@hookimpl
def editkit_model_metrics() -> list[ModelMetricSpec]:
    """Register the metrics of a model."""
    return [
        ModelMetricSpec(
            name="perplexity",
            factory=f"{_HERE}.perplexity:Perplexity",
            config=f"{_CONFIGS}:PerplexityConfig",
            summary="does the model still predict plain text, or did it collapse?",
            scores=(
                Score("perplexity/value", "PPL", higher_is_better=False, scale=1.0, digits=3),
                Score("perplexity/ratio", "PPLx", higher_is_better=False, scale=1.0, digits=4),
                Score("perplexity/collapsed", "Coll", higher_is_better=False),
            ),
            protocol="editkit/perplexity-per-token-of-whole-texts/v1",
        ),
        ModelMetricSpec(
            name="drift",
            factory=f"{_HERE}.drift:Drift",
            config=f"{_CONFIGS}:DriftConfig",
            summary="how far did the predictions move after neutral prompts?",
            scores=(
                Score("drift/kl_mean", "KL", higher_is_better=False, scale=1.0, digits=2),
                Score("drift/kl_p99", "KL99", higher_is_better=False, scale=1.0, digits=2),
                Score("drift/top_changed", "Top", higher_is_better=False),
            ),
            protocol="editkit/kl-unedited-to-edited-of-next-token/v1",
        ),
        ModelMetricSpec(
            name="change-norm",
            factory=f"{_HERE}.change_norm:ChangeNorm",
            config=f"{_CONFIGS}:ChangeNormConfig",
            summary="how large is the change, next to the weights that it is added to?",
            scores=(
                Score("change_norm/max", "dW", higher_is_better=False),
                Score("change_norm/total", "dWt", higher_is_better=False),
            ),
            protocol="editkit/relative-frobenius-norm-by-module/v1",
        ),
        ModelMetricSpec(
            name="distinct-n",
            factory=f"{_HERE}.distinct:Distinct",
            config=f"{_CONFIGS}:DistinctConfig",
            summary="does the model write varied text, or does it repeat itself?",
            scores=(
                Score("distinct_n/bigrams", "D2"),
                Score("distinct_n/trigrams", "D3"),
                Score("distinct_n/repetition", "Rep", higher_is_better=False),
            ),
            protocol="editkit/distinct-token-ngrams-of-continuations/v1",
        ),
    ]
