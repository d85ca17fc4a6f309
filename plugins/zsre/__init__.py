"""zsRE: questions with their answers, rephrased questions, and unrelated ones; dataset and metric.

The scores are documented in ``docs/metrics.md``, the file format in ``docs/datasets.md``.
"""

from __future__ import annotations

from editkit import DatasetSpec, MetricSpec, Score, hookimpl


@hookimpl
def editkit_datasets() -> list[DatasetSpec]:
    """Offer the dataset ``zsre``."""
    return [
        DatasetSpec(
            name="zsre",
            factory="editkit_plugins.zsre.dataset:ZsreDataset",
            config="editkit_plugins.zsre.config:ZsreConfig",
            summary="questions to be answered otherwise, in MEND's layout, from a file or the hub",
        )
    ]


@hookimpl
def editkit_metrics() -> list[MetricSpec]:
    """Offer the metric ``zsre``."""
    return [
        MetricSpec(
            name="zsre",
            factory="editkit_plugins.zsre.metric:ZsreAccuracy",
            config="editkit_plugins.zsre.config:ZsreAccuracyConfig",
            summary="how many of the answers' tokens are the model's first choice?",
            scores=(
                Score("zsre/efficacy", "Efficacy", summary=True, at_edit=True),
                Score("zsre/paraphrase", "Paraphrase", summary=True),
                Score("zsre/specificity", "Specificity", summary=True),
            ),
            protocol="zsre/teacher-forced-argmax/v1",
        )
    ]
