"""The view that ``editkit ui`` opens: the table's columns and charts, instead of every metric.

MLflow's web interface keeps shared views as experiment tags, and opens one that its link names.
Left to itself it draws a chart for each bound of each interval, in the order of the alphabet, and
shows no score at all in the list of runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from editkit import Score

KEY = "editkit"
BENCHMARK = "benchmark"
TAG = f"mlflow.sharedViewState.{KEY}"
SUMMARY = "summary/score"
_SECONDS = "time/edit_s_mean"
_SECTION = "editkit-scores"
_COLUMN_WIDTH = 160  # pixels: the longest of our names fits


def address(experiment_id: str, kind: str) -> str:
    """The page of an experiment's charts; to be put behind a server's address.

    Benchmarks have a view of their own; reports of other kinds look well as MLflow shows them.
    """
    query = "workflowType=machine_learning&compareRunsMode=CHART"
    if kind == BENCHMARK:
        query += f"&viewStateShareKey={KEY}"
    return f"/#/experiments/{experiment_id}/runs?{query}"


def shared_view(scores: Sequence[Score]) -> str:
    """The view's content as MLflow's interface reads it.

    Args:
        scores: What the benchmark's metrics declare; those with a label are shown.
    """
    columns = [SUMMARY, *(score.key for score in scores if score.label), _SECONDS]
    names = [f"metrics.`{key}`" for key in columns]
    state = {
        "orderByKey": f"metrics.`{SUMMARY}`",
        "orderByAsc": False,
        "selectedColumns": names,
        "columnOrder": names,
        "columnWidths": dict.fromkeys(names, _COLUMN_WIDTH),
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [_bars(key) for key in columns],
        "compareRunSections": [_section(_SECTION, "Scores")],
        "isAccordionReordered": True,
    }
    return json.dumps(state, separators=(",", ":"))


def _bars(key: str) -> dict[str, Any]:
    return {
        "uuid": f"editkit-{key}",
        "type": "BAR",
        "metricKey": key,
        "metricSectionId": _SECTION,
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": True,
    }


def _section(uuid: str, name: str) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "name": name,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }
