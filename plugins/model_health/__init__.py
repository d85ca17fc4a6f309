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
    words = kind.replace("_", " ")
    at = f"at {words.replace(' ', '-')} prompts"
    yield Score(
        f"{key}_kl",
        label,
        higher_is_better=better,
        scale=1.0,
        digits=2,
        name=f"KL, {words}",
        description=f"KL divergence from the unedited to the edited model's next token {at}, in "
        "nats",
    )
    yield Score(
        f"{key}_tv",
        "NTV" if all_shown else "",
        higher_is_better=better,
        name=f"total variation, {words}",
        description=f"probability of the next token that the edit moved {at}",
    )
    yield Score(
        f"{key}_top_changed",
        "NTop" if all_shown else "",
        higher_is_better=better,
        name=f"changed top token, {words}",
        description=f"share of next tokens with another most likely token {at}",
    )
    yield Score(
        f"{key}_p_true",
        "NdP" if all_shown else "",
        higher_is_better=None,
        signed=True,
        name=f"change of P(true), {words}",
        description=f"mean change in the probability of the true object {at}",
    )


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
                Score(
                    "perplexity/value",
                    "PPL",
                    higher_is_better=False,
                    scale=1.0,
                    digits=3,
                    name="perplexity",
                    description="perplexity per token of plain text",
                ),
                Score(
                    "perplexity/ratio",
                    "PPLx",
                    higher_is_better=False,
                    scale=1.0,
                    digits=4,
                    name="PPL, edited / unedited",
                    description="perplexity of plain text, relative to the unedited model's",
                ),
                Score(
                    "perplexity/collapsed",
                    "Coll",
                    higher_is_better=False,
                    name="collapsed by PPL",
                    description="share of models with a perplexity past the collapse threshold",
                ),
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
                    name="mean perplexity",
                    description="mean of the perplexities of single texts (ME-PPL)",
                    higher_is_better=False,
                    scale=1.0,
                    digits=3,
                ),
                Score(
                    "sentence_perplexity/ratio",
                    "MPPLx",
                    name="MPPL, edited / unedited",
                    description="mean perplexity of single texts, relative to the unedited model's",
                    higher_is_better=False,
                    scale=1.0,
                    digits=4,
                ),
                Score(
                    "sentence_perplexity/collapsed",
                    "MColl",
                    higher_is_better=False,
                    name="collapsed by MPPL",
                    description="share of models with a mean perplexity past the collapse "
                    "threshold",
                ),
            ),
            protocol="butterfly/mean-of-perplexities-of-texts/v1",
        ),
        ModelMetricSpec(
            name="drift",
            factory=f"{_HERE}.drift:Drift",
            config=f"{_CONFIGS}:DriftConfig",
            summary="how far did the predictions move after neutral prompts?",
            scores=(
                Score(
                    "drift/kl_mean",
                    "KL",
                    higher_is_better=False,
                    scale=1.0,
                    digits=2,
                    name="mean KL",
                    description="mean KL divergence from the unedited to the edited model "
                    "after neutral prompts, in nats",
                ),
                Score(
                    "drift/kl_p99",
                    "KL99",
                    higher_is_better=False,
                    scale=1.0,
                    digits=2,
                    name="99th percentile of KL",
                    description="99th percentile of the KL divergence after neutral prompts, "
                    "in nats",
                ),
                Score(
                    "drift/top_changed",
                    "Top",
                    higher_is_better=False,
                    name="changed top token",
                    description="share of neutral prompts with another most likely next token",
                ),
            ),
            protocol="editkit/kl-unedited-to-edited-of-next-token/v1",
        ),
        ModelMetricSpec(
            name="change-norm",
            factory=f"{_HERE}.change_norm:ChangeNorm",
            config=f"{_CONFIGS}:ChangeNormConfig",
            summary="how large is the change, next to the weights that it is added to?",
            scores=(
                Score(
                    "change_norm/max",
                    "dW",
                    higher_is_better=False,
                    bounds=(0.0, None),
                    name="largest change of a weight",
                    description="largest Frobenius norm of a change, relative to its weight",
                ),
                Score(
                    "change_norm/total",
                    "dWt",
                    higher_is_better=False,
                    bounds=(0.0, None),
                    name="change of all weights",
                    description="Frobenius norm of all changes, relative to the changed weights",
                ),
            ),
            protocol="editkit/relative-frobenius-norm-by-module/v1",
        ),
        ModelMetricSpec(
            name="distinct-n",
            factory=f"{_HERE}.distinct:Distinct",
            config=f"{_CONFIGS}:DistinctConfig",
            summary="does the model write varied text, or does it repeat itself?",
            scores=(
                Score(
                    "distinct_n/bigrams",
                    "D2",
                    name="distinct bigrams",
                    description="share of distinct bigrams among those of what the model writes",
                ),
                Score(
                    "distinct_n/trigrams",
                    "D3",
                    name="distinct trigrams",
                    description="share of distinct trigrams among those of what the model writes",
                ),
                Score(
                    "distinct_n/repetition",
                    "Rep",
                    higher_is_better=False,
                    name="repetition in a text",
                    description="mean share of 4-grams of a text that occurred in it before",
                ),
            ),
            protocol="editkit/distinct-token-ngrams-of-continuations/v1",
        ),
    ]
