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
                Score("knowedit/edit", "EditSucc", at_edit=True),
                Score("knowedit/rephrase", "Rephrase"),
                Score("knowedit/portability", "Port"),
                Score("knowedit/locality", "Loc"),
                *(Score(f"knowedit/{group}") for group in (*PORTABILITY, *LOCALITY)),
            ),
            protocol="knowedit/teacher-forced-argmax/{credit}/{spellings}/v1",
        )
    ]
