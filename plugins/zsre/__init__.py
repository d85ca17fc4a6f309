"""zsRE: a dataset of questions with rephrased and unrelated ones, and its metric.

``docs/metrics.md`` documents the scores, ``docs/datasets.md`` the file format.
"""

from __future__ import annotations

from editkit import DatasetSpec, MetricSpec, Score, hookimpl


@hookimpl
def editkit_datasets() -> list[DatasetSpec]:
    """Register the dataset ``zsre``."""
    return [
        DatasetSpec(
            name="zsre",
            factory="editkit_plugins.zsre.dataset:ZsreDataset",
            config="editkit_plugins.zsre.config:ZsreConfig",
            summary="questions with new answers, in MEND's layout, from a file or the hub",
        )
    ]


@hookimpl
def editkit_metrics() -> list[MetricSpec]:
    """Register ``zsre`` and ``drawdown``."""
    return [
        MetricSpec(
            name="zsre",
            factory="editkit_plugins.zsre.metric:ZsreAccuracy",
            config="editkit_plugins.zsre.config:ZsreAccuracyConfig",
            summary="what share of the answers' tokens does greedy decoding predict?",
            scores=(
                Score(
                    "zsre/efficacy",
                    "Efficacy",
                    summary=True,
                    at_edit=True,
                    name="tokens right at the question",
                    description="share of the new answer's tokens that are the argmax at the "
                    "edited question",
                ),
                Score(
                    "zsre/paraphrase",
                    "Paraphrase",
                    summary=True,
                    name="at a rephrased one",
                    description="share of the new answer's tokens that are the argmax at a "
                    "rephrased question",
                ),
                Score(
                    "zsre/specificity",
                    "Specificity",
                    summary=True,
                    name="at an unrelated one",
                    description="share of the old answer's tokens that are the argmax at an "
                    "unrelated question",
                ),
            ),
            protocol="zsre/teacher-forced-argmax/v1",
        ),
        MetricSpec(
            name="drawdown",
            factory="editkit_plugins.zsre.drawdown:Drawdown",
            config="editkit_plugins.zsre.config:DrawdownConfig",
            summary="how many unrelated facts did the edit make the model forget?",
            scores=(
                Score(
                    "drawdown/lost",
                    "Lost",
                    higher_is_better=False,
                    name="unrelated facts lost",
                    description="share of the unrelated facts that the unedited model gets right "
                    "and the edited one wrong",
                ),
                Score(
                    "drawdown/drop",
                    "Drop",
                    higher_is_better=False,
                    signed=True,
                    name="accuracy lost",
                    description="accuracy of the unedited model on unrelated questions minus that "
                    "of the edited one",
                ),
                Score(
                    "drawdown/known",
                    higher_is_better=None,
                    name="known before",
                    description="whether the unedited model gets the unrelated fact right",
                ),
            ),
            protocol="zsre/drawdown-of-teacher-forced-argmax/v1",
        ),
    ]
