"""CounterFact: the dataset, its metrics, and a metric for the subject's other facts.

``docs/metrics.md`` documents the scores, ``docs/datasets.md`` the file format.
"""

from __future__ import annotations

from editkit import CommandSpec, DatasetSpec, Failure, MetricSpec, Score, hookimpl
from editkit.registry.relation_names import WIKIDATA_NAMES

_METRICS = "editkit_plugins.counterfact.metrics"
_CONFIG = "editkit_plugins.counterfact.config:ChoiceConfig"
_KINDS = ("rewrite", "paraphrase", "neighborhood", "attribute")
_PROTOCOL = "counterfact/geometric-mean-per-token/v1"

_GENERALIZATION, _SPECIFICITY = "generalization", "specificity"


@hookimpl
def editkit_datasets() -> list[DatasetSpec]:
    """Register the dataset ``counterfact``."""
    return [
        DatasetSpec(
            name="counterfact",
            factory="editkit_plugins.counterfact.dataset:CounterFactDataset",
            config="editkit_plugins.counterfact.config:CounterFactConfig",
            summary="counterfactual edits with paraphrases and neighbours, from a file or the hub",
            relation_names=WIKIDATA_NAMES,
        )
    ]


@hookimpl
def editkit_commands() -> list[CommandSpec]:
    """Register ``editkit compile-dataset``."""
    return [
        CommandSpec(
            name="compile-dataset",
            module="editkit_plugins.counterfact.compiling.command",
            summary="compile records in CounterFact's layout from facts",
        )
    ]


@hookimpl
def editkit_metrics() -> list[MetricSpec]:
    """Register the papers' metrics, ``correctness`` and ``same-subject``."""
    return [
        MetricSpec(
            name="efficacy",
            factory=f"{_METRICS}:Efficacy",
            config=_CONFIG,
            summary="is the new object preferred at the edited prompt?",
            scores=(
                Score(
                    "efficacy/score",
                    "ES",
                    summary=True,
                    at_edit=True,
                    name="efficacy",
                    description="share of edits with P(new) > P(true) at the edited prompt",
                ),
                Score(
                    "efficacy/magnitude",
                    "EM",
                    signed=True,
                    name="margin of ES",
                    description="mean P(new) - P(true) at the edited prompt",
                ),
            ),
            protocol=_PROTOCOL,
        ),
        MetricSpec(
            name="paraphrase",
            factory=f"{_METRICS}:Paraphrase",
            config=_CONFIG,
            summary="is the new object preferred under other wordings?",
            scores=(
                Score(
                    "paraphrase/score",
                    "PS",
                    summary=True,
                    name="paraphrase",
                    description="share of paraphrases with P(new) > P(true)",
                    failure=Failure(_GENERALIZATION, 3 / 4, of="efficacy/score", floor=0.5),
                ),
                Score(
                    "paraphrase/magnitude",
                    "PM",
                    signed=True,
                    name="margin of PS",
                    description="mean P(new) - P(true) at paraphrases",
                    failure=Failure(_GENERALIZATION, 1 / 3, of="efficacy/magnitude", floor=0.0),
                ),
            ),
            protocol=_PROTOCOL,
        ),
        MetricSpec(
            name="neighborhood",
            factory=f"{_METRICS}:Neighborhood",
            config=_CONFIG,
            summary="is the true object still preferred for other subjects that share it?",
            scores=(
                Score(
                    "neighborhood/score",
                    "NS",
                    summary=True,
                    name="neighborhood",
                    description="share of prompts about other subjects with the true object that "
                    "keep P(true) > P(new)",
                    failure=Failure(_SPECIFICITY, 3 / 4),
                ),
                Score(
                    "neighborhood/magnitude",
                    "NM",
                    signed=True,
                    name="margin of NS",
                    description="mean P(true) - P(new) at prompts about other subjects with the "
                    "true object",
                    failure=Failure(_SPECIFICITY, 1 / 2, floor=0.0),
                ),
            ),
            protocol=_PROTOCOL,
        ),
        MetricSpec(
            name="attribute",
            factory=f"{_METRICS}:Attribute",
            config=_CONFIG,
            summary="is the new object still preferred for other subjects that have it?",
            scores=(
                Score(
                    "attribute/score",
                    "AS",
                    name="attribute",
                    description="share of prompts about other subjects that have the new object "
                    "with P(new) > P(true)",
                ),
                Score(
                    "attribute/magnitude",
                    "AM",
                    signed=True,
                    name="margin of AS",
                    description="mean P(new) - P(true) at prompts about other subjects that have "
                    "the new object",
                ),
            ),
            protocol=_PROTOCOL,
        ),
        MetricSpec(
            name="correctness",
            factory=f"{_METRICS}:Correctness",
            config=_CONFIG,
            summary="at how many prompts is the right object what greedy decoding writes?",
            scores=tuple(
                Score(
                    f"correctness/{kind}",
                    name=f"argmax, {kind}",
                    description=f"share of {kind} prompts at which greedy decoding writes the "
                    "wanted object",
                )
                for kind in _KINDS
            ),
            protocol="counterfact/exact-argmax/v1",
        ),
        MetricSpec(
            name="same-subject",
            factory=f"{_METRICS}:SameSubject",
            config=_CONFIG,
            summary="does the model still know the subject's other facts?",
            scores=(
                Score(
                    "same_subject/score",
                    "SS",
                    name="same subject",
                    description="share of the subject's other facts that the model still prefers "
                    "to a peer's",
                ),
                Score(
                    "same_subject/drift",
                    "SD",
                    higher_is_better=None,
                    signed=True,
                    name="drift of SS",
                    description="mean change in the probability of the subject's other facts",
                ),
            ),
            protocol="editkit/same-subject/geometric-mean-per-token/v1",
        ),
    ]
