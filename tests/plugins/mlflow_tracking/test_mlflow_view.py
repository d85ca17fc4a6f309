from __future__ import annotations

import json

from tracking_samples import SCORES

from editkit import Score
from editkit_plugins.mlflow_tracking.view import TAG, address, benchmark_view

SHORTEST_TAG_LIMIT = 5000  # among the MLflow versions that we support


def test_the_view_has_the_columns_of_the_table_in_order() -> None:
    view = json.loads(benchmark_view((*SCORES, Score("fluency/entropy"))))
    keys = ["summary/score", *(score.key for score in SCORES), "time/edit_s_mean"]
    heads = ["S", "ES", "EM", "NS", "s/edit", "records"]
    scatter, parallel, *bars = view["compareRunCharts"]
    assert (scatter["xaxis"]["key"], scatter["yaxis"]["key"]) == (
        "efficacy/score",
        "neighborhood/score",
    )
    assert parallel["selectedMetrics"] == ["efficacy/score", "neighborhood/score", "summary/score"]
    assert [chart["metricKey"] for chart in bars] == keys
    assert view["selectedColumns"] == [f"tags.`{head}`" for head in heads]
    assert view["columnOrder"] == view["selectedColumns"] == list(view["columnWidths"])
    assert view["orderByKey"] == "metrics.`summary/score`"
    sections = {section["uuid"] for section in view["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == sections


def test_a_view_with_many_scores_fits_into_a_tag() -> None:
    many = [Score(f"some_metric_{number}/magnitude", f"M{number}") for number in range(12)]
    assert len(benchmark_view(many)) < SHORTEST_TAG_LIMIT


def test_the_link_names_the_view() -> None:
    assert address("7", benchmark_view(SCORES)) == (
        "/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART"
        "&viewStateShareKey=" + TAG.rpartition(".")[2]
    )
