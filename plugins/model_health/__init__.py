"""What edits left of the model, beyond the answers to a record's questions (``docs/metrics.md``).

``perplexity``, ``sentence-perplexity``, ``drift``, ``change-norm`` and ``distinct-n`` score the
model, whichever facts were written into it. ``shift`` is the drift at the prompts of a record.
"""

from __future__ import annotations

from collections.abc import Iterator

from editkit import MetricSpec, ModelMetricSpec, Score, hookimpl

_HERE = "editkit_plugins.model_health"
_CONFIGS = f"{_HERE}.config"


_UNTOUCHED = {"neighborhood": "N", "same_subject": "S", "attribute": "A"}
"""Kinds of prompts at which nothing should move, with the first letter of their columns."""


@hookimpl
def editkit_metrics() -> list[MetricSpec]:
    """Register ``shift``."""
    return [
        MetricSpec(
            name="shift",
            factory=f"{_HERE}.shift:Shift",
            config=f"{_CONFIGS}:ShiftConfig",
            summary="how far did the predictions move at neighbours and other prompts?",
            scores=tuple(
                score
                for kind in ("neighborhood", "same_subject", "attribute", "rewrite", "paraphrase")
                for score in _shifts(kind)
            ),
            protocol="editkit/shift-of-next-token-by-kind-of-prompt/v1",
        )
    ]


def _shifts(kind: str) -> Iterator[Score]:
    """The scores of a kind of prompts; tables have those of neighbours, and two others' KL."""
    letter, better = _UNTOUCHED.get(kind, ""), False if kind in _UNTOUCHED else None
    key, all_shown = f"shift/{kind}", kind == "neighborhood"
    label = f"{letter}KL" if letter else ""
    yield Score(f"{key}_kl", label, higher_is_better=better, scale=1.0, digits=2)
    yield Score(f"{key}_tv", "NTV" if all_shown else "", higher_is_better=better)
    yield Score(f"{key}_top_changed", "NTop" if all_shown else "", higher_is_better=better)
    yield Score(f"{key}_p_true", "NdP" if all_shown else "", higher_is_better=None, signed=True)


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
            name="sentence-perplexity",
            factory=f"{_HERE}.sentence_perplexity:SentencePerplexity",
            config=f"{_CONFIGS}:SentencePerplexityConfig",
            summary="is the mean perplexity of single texts still ordinary (ME-PPL)?",
            scores=(
                Score(
                    "sentence_perplexity/mean",
                    "MPPL",
                    higher_is_better=False,
                    scale=1.0,
                    digits=3,
                ),
                Score(
                    "sentence_perplexity/ratio",
                    "MPPLx",
                    higher_is_better=False,
                    scale=1.0,
                    digits=4,
                ),
                Score("sentence_perplexity/collapsed", "MColl", higher_is_better=False),
            ),
            protocol="butterfly/mean-of-perplexities-of-texts/v1",
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
                Score("change_norm/max", "dW", higher_is_better=False, bounds=(0.0, None)),
                Score("change_norm/total", "dWt", higher_is_better=False, bounds=(0.0, None)),
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
