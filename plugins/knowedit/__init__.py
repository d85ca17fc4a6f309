"""KnowEdit (Zhang et al. 2024): a dataset of several tasks in one layout, and its metric.

``docs/metrics.md`` documents the scores, ``docs/datasets.md`` the file formats.
"""

from __future__ import annotations

from editkit import DatasetSpec, MetricSpec, Score, hookimpl

PORTABILITY = ("aliases", "multi_hop", "logical_generalization")
"""Groups of consequences in which the edit should show."""

LOCALITY = ("relation_specificity", "forgetfulness")
"""Groups of consequences in which nothing should change."""


@hookimpl
def editkit_datasets() -> list[DatasetSpec]:
    """Register the dataset ``knowedit``."""
    return [
        DatasetSpec(
            name="knowedit",
            factory="editkit_plugins.knowedit.dataset:KnowEditDataset",
            config="editkit_plugins.knowedit.config:KnowEditConfig",
            summary="WikiData, zsRE, WikiBio and Sanitation in KnowEdit's layouts",
        )
    ]


@hookimpl
def editkit_metrics() -> list[MetricSpec]:
    """Register the metric ``knowedit``."""
    return [
        MetricSpec(
            name="knowedit",
            factory="editkit_plugins.knowedit.metric:KnowEdit",
            config="editkit_plugins.knowedit.config:KnowEditMetricConfig",
            summary="do the answers' tokens agree, and do other predictions stay?",
            scores=(
                Score(
                    "knowedit/edit",
                    "EditSucc",
                    at_edit=True,
                    name="edit success",
                    description="share of the new answer's tokens that are the argmax at the "
                    "edited prompt",
                ),
                Score(
                    "knowedit/rephrase",
                    "Rephrase",
                    name="rephrased",
                    description="share of the new answer's tokens that are the argmax at "
                    "rephrased prompts",
                ),
                Score(
                    "knowedit/portability",
                    "Port",
                    name="portability",
                    description="share of the answers' tokens that are the argmax at questions "
                    "about consequences",
                ),
                Score(
                    "knowedit/locality",
                    "Loc",
                    name="locality",
                    description="share of tokens at unrelated prompts that the edit left as "
                    "they were",
                ),
                *(
                    Score(
                        f"knowedit/{group}",
                        description=f"share of tokens that agree: {group.replace('_', ' ')}",
                    )
                    for group in (*PORTABILITY, *LOCALITY)
                ),
            ),
            protocol="knowedit/teacher-forced-argmax/{credit}/{spellings}/v1",
        )
    ]
