"""The view that ``editkit ui`` opens: the table's columns and charts instead of all metrics.

MLflow's web interface stores shared views as experiment tags, and opens the view that a link names.
By default it draws a chart for each bound of each interval, in alphabetical order, and the list of
runs shows no score. The columns of our list are tags, since only tags can hold a number with its
interval; the list is sorted by a metric.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from editkit import Score
from editkit.benchmark.aggregate import SUMMARY
from editkit.report.tables import CELL_COLUMNS
from editkit_plugins.mlflow_tracking.content import mlflow_name

KEY = "editkit"
BENCHMARK = "benchmark"
TAG = f"mlflow.sharedViewState.{KEY}"
_SECONDS = "time/edit_s_mean"
_OVERVIEW, _SCORES, _PANELS = "editkit-overview", "editkit-scores", "editkit-panels"
_COLUMN_WIDTH = 112  # pixels, enough for a number with its interval
_METRIC_WIDTH = 200  # pixels, enough for a name of some words
_MOST_METRICS = 20  # more would exceed the length of a tag


def address(experiment_id: str, shared: str | None) -> str:
    """The page to open for an experiment, relative to the server's address.

    Args:
        experiment_id: The experiment.
        shared: Our view of it; None for MLflow's own.
    """
    charts = shared is None or json.loads(shared)["compareRunCharts"]
    query = f"workflowType=machine_learning&compareRunsMode={'CHART' if charts else 'TABLE'}"
    if shared is not None:
        query += f"&viewStateShareKey={KEY}"
    return f"/#/experiments/{experiment_id}/runs?{query}"


def report_view(metrics: Iterable[str], panels: Iterable[str]) -> str:
    """The view of reports that have single numbers and no curves.

    It has a list with one column per number, and one panel per image name with the images of all
    runs. MLflow would draw bar charts, with a single bar if there is one run.

    Args:
        metrics: Names of the numbers.
        panels: Names of the images.
    """
    columns = [f"metrics.`{mlflow_name(key)}`" for key in metrics][:_MOST_METRICS]
    state = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(columns, _METRIC_WIDTH),
        "compareRunCharts": [
            _chart("IMAGE", name, _PANELS, 10, imageKeys=[name], step=0)
            for name in map(mlflow_name, panels)
        ],
        "compareRunSections": [_section(_PANELS, "Images", columns=1, height=480)],
        "isAccordionReordered": True,
    }
    return json.dumps(state, separators=(",", ":"))


def benchmark_view(scores: Sequence[Score]) -> str:
    """The view of a benchmark, as the JSON that MLflow's interface reads.

    Args:
        scores: The scores of the benchmark; those with a label are shown.
    """
    labelled = [score for score in scores if score.label]
    heads = ["S", *(mlflow_name(score.label) for score in labelled), *CELL_COLUMNS]
    columns = [f"tags.`{head}`" for head in heads]
    overview = _overview(scores)
    bars = [SUMMARY.key, *(score.key for score in labelled), _SECONDS]
    sections = [_section(_SCORES, "Each score", columns=3, height=320)]
    if overview:
        sections.insert(0, _section(_OVERVIEW, "All runs at once", columns=2, height=440))
    state = {
        "orderByKey": f"metrics.`{SUMMARY.key}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(columns, _COLUMN_WIDTH),
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [
            *overview,
            *(_chart("BAR", key, _SCORES, 20, metricKey=key) for key in bars),
        ],
        "compareRunSections": sections,
        "isAccordionReordered": True,
    }
    return json.dumps(state, separators=(",", ":"))


def _overview(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """A scatter plot of the last two main scores, and parallel coordinates of all of them.

    In the order of the papers' tables, the last two are generalization and specificity.
    """
    keys = [score.key for score in scores if score.summary]
    if len(keys) < 2:
        return []
    x, y = ({"key": key, "type": "METRIC"} for key in keys[-2:])
    return [
        _chart("SCATTER", "scatter", _OVERVIEW, 100, xaxis=x, yaxis=y),
        _chart(
            "PARALLEL",
            "parallel",
            _OVERVIEW,
            100,
            selectedParams=["editor"],
            selectedMetrics=[*keys, SUMMARY.key],
        ),
    ]


def _chart(kind: str, name: str, section: str, n_runs: int, **options: Any) -> dict[str, Any]:
    return {
        "uuid": f"editkit-{name}",
        "type": kind,
        "metricSectionId": section,
        "runsCountToCompare": n_runs,
        "deleted": False,
        "isGenerated": True,
        **options,
    }


def _section(uuid: str, name: str, *, columns: int, height: int) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "name": name,
        "columns": columns,
        "cardHeight": height,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }
