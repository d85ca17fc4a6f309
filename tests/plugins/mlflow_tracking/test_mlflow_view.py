from __future__ import annotations

import json

import pytest
from tracking_samples import SCORES

from editkit import Score
from editkit_plugins.mlflow_tracking.view import (
    TAG,
    address,
    benchmark_view,
    first_page,
    state_of,
)

SHORTEST_TAG_LIMIT = 5000  # among the MLflow versions that we support


def test_the_columns_that_matter_come_first_and_the_best_run_on_top() -> None:
    view = json.loads(benchmark_view((*SCORES, Score("fluency/entropy")), curves=False))
    heads = ["S", "ES", "NS", "records", "s/edit", "EM"]
    assert view["selectedColumns"] == [f"tags.`{head}`" for head in heads]
    assert view["columnOrder"][2:] == view["selectedColumns"]
    assert view["columnOrder"] == list(view["columnWidths"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`summary/score`", False)
    assert view["name"] == "Ranked by S"
    # The columns that matter fit beside MLflow's assistant in a window of 1440 pixels.
    four = json.loads(
        benchmark_view(
            (*SCORES, Score("p/score", "PS", summary=True)), ["mend-cf · atlas"], curves=False
        )
    )
    matter = four["columnOrder"][: -len(["EM"])]
    assert sum(four["columnWidths"][column] for column in matter) <= 1440 - 708


@pytest.mark.parametrize("curves", [False, True])
def test_charts_are_in_sections_and_newer_versions_read_the_same_view(curves: bool) -> None:
    view = json.loads(benchmark_view((*SCORES, Score("fluency/entropy")), curves=curves))
    keys = ["summary/score", "efficacy/score", "neighborhood/score"]
    charts = view["compareRunCharts"]
    lines = [chart["metricKey"] for chart in charts if chart["type"] == "LINE"]
    assert lines == (keys if curves else [])
    assert all(chart["lineSmoothness"] == 0 for chart in charts[: len(lines)])
    scatter, parallel, *bars = charts[len(lines) :]
    assert (scatter["xaxis"]["key"], scatter["yaxis"]["key"]) == tuple(keys[1:])
    assert parallel["selectedMetrics"] == [*keys[1:], keys[0]]
    rest = ["efficacy/magnitude", "time/edit_s_mean"]
    assert [chart["metricKey"] for chart in bars] == [*keys, *rest]
    sections = {section["uuid"] for section in view["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in charts} == sections
    packed = state_of(view["state"])
    assert packed == {key: view[key] for key in packed}
    assert view.keys() - packed.keys() == {"name", "createdAt", "state"}


def test_without_main_scores_the_first_score_ranks() -> None:
    view = json.loads(
        benchmark_view([Score("a/b"), Score("c/kl", "KL", higher_is_better=False)], curves=False)
    )
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`c/kl`", True)
    assert view["selectedColumns"][0] == "tags.`KL`"


def test_a_view_with_many_scores_fits_into_a_tag() -> None:
    many = [Score(f"some_metric_{number}/magnitude", f"M{number}") for number in range(25)]
    view = benchmark_view(many, curves=True)
    assert len(view) < SHORTEST_TAG_LIMIT
    assert "tags.`M24`" in state_of(view)["selectedColumns"]
    some = benchmark_view([*SCORES, *many[:8]], curves=True)
    assert len(some) < SHORTEST_TAG_LIMIT
    assert len(json.loads(some)["compareRunCharts"]) < len(state_of(some)["compareRunCharts"])


def test_the_link_names_the_view() -> None:
    page = (
        "/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=TABLE"
        "&viewStateShareKey=" + TAG.rpartition(".")[2]
    )
    assert address("7", "TABLE") == page
    assert first_page("7", benchmark_view(SCORES, curves=False)) == page
