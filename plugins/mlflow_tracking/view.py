"""The view that ``editkit ui`` opens: the table's columns and charts, instead of every metric.

MLflow's web interface keeps shared views as experiment tags, and opens one that its link names.
Left to itself it draws a chart for each bound of each interval, in the order of the alphabet, and
shows no score at all in the list of runs. The list's columns are tags, since only these can hold a
number with its interval; it is sorted by a metric.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from editkit import Score
from editkit.report.tables import CELL_COLUMNS
from editkit_plugins.mlflow_tracking.page import entity_name

KEY = "editkit"
BENCHMARK = "benchmark"
TAG = f"mlflow.sharedViewState.{KEY}"
SUMMARY = "summary/score"
_SECONDS = "time/edit_s_mean"
_OVERVIEW, _SCORES, _PANELS = "editkit-overview", "editkit-scores", "editkit-panels"
_COLUMN_WIDTH = 112  # pixels: a number with its interval fits
_METRIC_WIDTH = 200  # a name of some words fits
_MOST_METRICS = 20  # or the view would not fit into a tag


def address(experiment_id: str, shared: str | None) -> str:
    """The page that an experiment is best begun with; to be put behind a server's address.

    Args:
        experiment_id: The experiment.
        shared: The view that we made for it; None for one that MLflow shows well by itself.
    """
    charts = shared is None or json.loads(shared)["compareRunCharts"]
    query = f"workflowType=machine_learning&compareRunsMode={'CHART' if charts else 'TABLE'}"
    if shared is not None:
        query += f"&viewStateShareKey={KEY}"
    return f"/#/experiments/{experiment_id}/runs?{query}"


def report_view(metrics: Iterable[str], panels: Iterable[str]) -> str:
    """The view of runs that have single numbers and no curves.

    A list with a column for each number, of which MLflow would draw charts with one bar where there
    is one run; and for each name of pictures a panel with those of all runs.

    Args:
        metrics: Names of the numbers.
        panels: Names of the pictures.
    """
    columns = [f"metrics.`{entity_name(key)}`" for key in metrics][:_MOST_METRICS]
    state = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(columns, _METRIC_WIDTH),
        "compareRunCharts": [_panel(entity_name(name)) for name in panels],
        "compareRunSections": [_section(_PANELS, "Pictures", columns=1, height=480)],
        "isAccordionReordered": True,
    }
    return json.dumps(state, separators=(",", ":"))


def shared_view(scores: Sequence[Score]) -> str:
    """The view's content as MLflow's interface reads it.

    Args:
        scores: What the benchmark's metrics declare; those with a label are shown.
    """
    labelled = [score for score in scores if score.label]
    heads = ["S", *(entity_name(score.label) for score in labelled), *CELL_COLUMNS]
    columns = [f"tags.`{head}`" for head in heads]
    overview = _overview(scores)
    bars = [SUMMARY, *(score.key for score in labelled), _SECONDS]
    sections = [_section(_SCORES, "Each score", columns=3, height=320)]
    if overview:
        sections.insert(0, _section(_OVERVIEW, "All runs at once", columns=2, height=440))
    state = {
        "orderByKey": f"metrics.`{SUMMARY}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(columns, _COLUMN_WIDTH),
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [*overview, *(_bars(key) for key in bars)],
        "compareRunSections": sections,
        "isAccordionReordered": True,
    }
    return json.dumps(state, separators=(",", ":"))


def _overview(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """All runs at once: the last two summary scores as a scatter plot, and all in parallel.

    In the order of the papers' tables these two are generalization and specificity.
    """
    keys = [score.key for score in scores if score.summary]
    if len(keys) < 2:
        return []
    x, y = ({"key": key, "type": "METRIC"} for key in keys[-2:])
    return [
        {**_chart("scatter", "SCATTER"), "xaxis": x, "yaxis": y},
        {
            **_chart("parallel", "PARALLEL"),
            "selectedParams": ["editor"],
            "selectedMetrics": [*keys, SUMMARY],
        },
    ]


def _chart(name: str, kind: str) -> dict[str, Any]:
    return {
        "uuid": f"editkit-{name}",
        "type": kind,
        "metricSectionId": _OVERVIEW,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": True,
    }


def _bars(key: str) -> dict[str, Any]:
    return {
        "uuid": f"editkit-{key}",
        "type": "BAR",
        "metricKey": key,
        "metricSectionId": _SCORES,
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": True,
    }


def _panel(name: str) -> dict[str, Any]:
    return {
        "uuid": f"editkit-{name}",
        "type": "IMAGE",
        "imageKeys": [name],
        "step": 0,
        "metricSectionId": _PANELS,
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": True,
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
