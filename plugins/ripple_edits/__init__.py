"""RippleEdits (Cohen et al. 2024): what an edit implies, as a dataset and a metric.

``docs/metrics.md`` documents the scores, ``docs/datasets.md`` the file format.
"""

from __future__ import annotations

from editkit import DatasetSpec, MetricSpec, Score, hookimpl

CRITERIA = {
    "logical_generalization": "LG",
    "compositionality_1": "CI",
    "compositionality_2": "CII",
    "aliases": "SA",
    "forgetfulness": "PV",
    "relation_specificity": "RSp",
}
"""Group of consequences -> column head. The paper abbreviates relation specificity as RS, which is
the head of reference similarity here."""


@hookimpl
def editkit_datasets() -> list[DatasetSpec]:
    """Register the dataset ``ripple-edits``."""
    return [
        DatasetSpec(
            name="ripple-edits",
            factory="editkit_plugins.ripple_edits.dataset:RippleEditsDataset",
            config="editkit_plugins.ripple_edits.config:RippleEditsConfig",
            summary="edits with tests of what follows from them, in RippleEdits' layout",
        )
    ]


@hookimpl
def editkit_metrics() -> list[MetricSpec]:
    """Register the metric ``ripple-edits``."""
    words = {group: group.replace("_", " ") for group in CRITERIA}
    criteria = [
        Score(
            f"ripple_edits/{group}",
            label,
            name=words[group],
            description=f"share of executed tests of {words[group]} that the edited model passes",
        )
        for group, label in CRITERIA.items()
    ]
    shares = [
        Score(
            f"ripple_edits/{group}_executed",
            higher_is_better=None,
            description=f"share of tests of {words[group]} with conditions that the unedited "
            "model meets",
        )
        for group in CRITERIA
    ]
    return [
        MetricSpec(
            name="ripple-edits",
            factory="editkit_plugins.ripple_edits.metric:RippleEdits",
            config="editkit_plugins.ripple_edits.config:RippleEditsMetricConfig",
            summary="does the edited model draw the conclusions, and keep the rest?",
            scores=(
                Score(
                    "ripple_edits/edit",
                    "Edit",
                    at_edit=True,
                    name="edit recalled",
                    description="share of edits that the edited model answers",
                ),
                Score(
                    "ripple_edits/edit_before",
                    higher_is_better=None,
                    description="share of edits that the unedited model answers",
                ),
                *criteria,
                Score(
                    "ripple_edits/executed",
                    "Exec",
                    higher_is_better=None,
                    name="tests executed",
                    description="share of tests with conditions that the unedited model meets",
                ),
                *shares,
            ),
            protocol="ripple-edits/{text}/{match}/{length}-{extra}/{stop}/letters-{letters}/"
            "failed-edits-{failed_edits}/v1",
        )
    ]
