"""MQuAKE (Zhong et al. 2023): chains of edits with multi-hop questions, a dataset and a metric.

``docs/metrics.md`` documents the scores, ``docs/datasets.md`` the file format.
"""

from __future__ import annotations

from editkit import DatasetSpec, MetricSpec, Score, hookimpl
from editkit.registry.relation_names import WIKIDATA_NAMES


@hookimpl
def editkit_datasets() -> list[DatasetSpec]:
    """Register the dataset ``mquake``."""
    return [
        DatasetSpec(
            name="mquake",
            factory="editkit_plugins.mquake.dataset:MQuakeDataset",
            config="editkit_plugins.mquake.config:MQuakeConfig",
            summary="chains of facts with several edits and multi-hop questions",
            relation_names=WIKIDATA_NAMES,
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
                Score(
                    "mquake/edit",
                    "Edit-wise",
                    at_edit=True,
                    name="edits recalled",
                    description="share of edits that the model recalls",
                ),
                Score(
                    "mquake/instance",
                    "Inst-wise",
                    name="all hops recalled",
                    description="share of cases with every hop of the chain recalled",
                ),
                Score(
                    "mquake/multi_hop",
                    "Multi-hop",
                    name="multi-hop",
                    description="share of cases with a correct answer to one of the multi-hop "
                    "questions",
                ),
                Score(
                    "mquake/old_answer",
                    "Old answer",
                    higher_is_better=False,
                    name="old answer",
                    description="share of cases with the old answer to one of the multi-hop "
                    "questions",
                ),
                Score(
                    "mquake/questions",
                    name="questions answered",
                    description="share of multi-hop questions that the model answers with the "
                    "new answer",
                ),
                Score(
                    "mquake/hops",
                    name="hops recalled",
                    description="share of hops that the model recalls",
                ),
                Score(
                    "mquake/known",
                    higher_is_better=None,
                    name="known before",
                    description="share of cases with every hop of the original chain recalled "
                    "by the unedited model",
                ),
            ),
            protocol="mquake/{frame}/{match}/{stop}-{tokens}/demonstrations-{demonstrations}/"
            "{instances}-instances/v1",
        )
    ]
