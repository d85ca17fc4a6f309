"""MQuAKE (Zhong et al. 2023): chains of edits with multi-hop questions, a dataset and a metric.

``docs/metrics.md`` documents the scores, ``docs/datasets.md`` the file format.
"""

from __future__ import annotations

from editkit import DatasetSpec, MetricSpec, Score, hookimpl


@hookimpl
def editkit_datasets() -> list[DatasetSpec]:
    """Register the dataset ``mquake``."""
    return [
        DatasetSpec(
            name="mquake",
            factory="editkit_plugins.mquake.dataset:MQuakeDataset",
            config="editkit_plugins.mquake.config:MQuakeConfig",
            summary="chains of facts with several edits and multi-hop questions",
        )
    ]


@hookimpl
def editkit_metrics() -> list[MetricSpec]:
    """Register the metric ``mquake``."""
    return [
        MetricSpec(
            name="mquake",
            factory="editkit_plugins.mquake.metric:MQuake",
            config="editkit_plugins.mquake.config:MQuakeMetricConfig",
            summary="does the edited model answer multi-hop questions, and every hop?",
            scores=(
                Score("mquake/edit", "Edit-wise", at_edit=True),
                Score("mquake/instance", "Inst-wise"),
                Score("mquake/multi_hop", "Multi-hop"),
                Score("mquake/old_answer", "Old answer", higher_is_better=False),
                Score("mquake/questions"),
                Score("mquake/hops"),
                Score("mquake/known", higher_is_better=None),
            ),
            protocol="mquake/{frame}/{match}/{stop}-{tokens}/demonstrations-{demonstrations}/"
            "{instances}-instances/v1",
        )
    ]
