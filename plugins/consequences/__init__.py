"""Consequences: does the edited model draw the conclusions of an edit, and nothing beyond them?

``docs/metrics.md`` documents the scores, ``docs/datasets.md`` the tests of a record.
"""

from __future__ import annotations

from editkit import MetricSpec, Score, hookimpl


@hookimpl
def editkit_metrics() -> list[MetricSpec]:
    """Register the metric ``consequences``."""
    return [
        MetricSpec(
            name="consequences",
            factory="editkit_plugins.consequences.metric:Consequences",
            config="editkit_plugins.consequences.config:ConsequencesConfig",
            summary="does the model draw the conclusions of an edit, in words of its own?",
            scores=(
                Score(
                    "consequences/all",
                    "Cons",
                    name="consequences",
                    description="share of the edit's consequences that the model states",
                ),
                Score(
                    "consequences/kept",
                    "Kept",
                    name="facts kept",
                    description="share of other facts that the model still states",
                ),
            ),
            scores_of="editkit_plugins.consequences.config:scores_of",
            protocol="editkit/consequences/{frame}/greedy-{stop}-{tokens}/{match}/v1",
        )
    ]
