"""The view that ``editkit ui`` opens: the ranked table's columns, and charts of the scores.

MLflow's web interface stores shared views as experiment tags, and opens the view that a link names.
By default its list of runs shows no score. The columns of our list are tags, since only tags can
hold a number with its interval; the list is sorted by a metric.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from editkit import Score
from editkit.benchmark.aggregate import SUMMARY
from editkit.report.tables import CELL_COLUMNS
from editkit_plugins.mlflow_tracking.content import mlflow_name

KEY = "editkit"
BENCHMARK = "benchmark"
TAG = f"mlflow.sharedViewState.{KEY}"
_SECONDS = "time/edit_s_mean"
_PACKED = "deflate;"  # how MLflow marks compressed texts
_LONGEST_TAG = 5000  # characters, in MLflow 3.13
_RANKED, _REPORTS = "Ranked by {}", "Numbers and images"  # names in MLflow's menu "Views"
_LINES, _OVERVIEW, _SCORES, _PANELS = (
    "editkit-lines",
    "editkit-overview",
    "editkit-scores",
    "editkit-panels",
)
_RUN_NAME, _CREATED = "attributes.`Run Name`", "runDateAndNestInfo"  # MLflow's column ids
_CREATED_WIDTH = 40  # pixels, enough for the sign of a finished run
_NAME_WIDTHS = (120, 240)  # pixels, the narrowest and widest column of run names
_NAME_MARGIN, _CHARACTER = 44, 5.6  # pixels around a name, and of each character
_COLUMN_WIDTH = 112  # pixels, enough for a share with its interval
_OTHER_WIDTH = 128  # pixels, enough for a difference with its interval
_CELL_WIDTH = 58  # pixels, enough for a count or for seconds
_METRIC_WIDTHS = (110, 200)  # pixels, the narrowest and widest column of a metric
_MOST_METRICS = 20  # more would exceed the length of a tag


def address(experiment_id: str, mode: str, *, shared: bool = True) -> str:
    """A page of an experiment, relative to the server's address.

    Args:
        experiment_id: The experiment.
        mode: ``TABLE``, ``CHART``, or ``ARTIFACT`` for tables of all runs side by side.
        shared: Whether to show our view of it, and not MLflow's own.
    """
    query = f"workflowType=machine_learning&compareRunsMode={mode}"
    if shared:
        query += f"&viewStateShareKey={KEY}"
    return f"/#/experiments/{experiment_id}/runs?{query}"


def first_page(experiment_id: str, shared: str | None) -> str:
    """The page to open first: the table, or the charts of trainings and of images.

    Args:
        experiment_id: The experiment.
        shared: Our view of the experiment; None if it has none.
    """
    if shared is None:
        return address(experiment_id, "CHART", shared=False)
    images = any(chart["type"] == "IMAGE" for chart in state_of(shared)["compareRunCharts"])
    return address(experiment_id, "CHART" if images else "TABLE")


def report_view(metrics: Iterable[str], panels: Iterable[str]) -> str:
    """The view of reports that have single numbers and no curves.

    It has a list with one column per number, and one panel per image name with the images of all
    runs. MLflow would draw bar charts, with a single bar if there is one run.

    Args:
        metrics: Names of the numbers.
        panels: Names of the images.
    """
    names = [mlflow_name(key) for key in metrics][:_MOST_METRICS]
    columns = {f"metrics.`{name}`": _fitting(name, _METRIC_WIDTHS) for name in names}
    widths = {_CREATED: _CREATED_WIDTH, **columns}
    state = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": list(columns),
        "columnOrder": list(widths),
        "columnWidths": widths,
        "compareRunCharts": [
            _chart("IMAGE", name, _PANELS, 10, imageKeys=[name], step=0)
            for name in map(mlflow_name, panels)
        ],
        "compareRunSections": [_section(_PANELS, "Images", columns=1, height=480)],
        "isAccordionReordered": True,
    }
    return _named(_REPORTS, state)


def benchmark_view(scores: Sequence[Score], names: Iterable[str] = (), *, curves: bool) -> str:
    """The view of a benchmark, as the JSON that MLflow's interface reads.

    The columns that matter come first: at 1440 pixels they fit beside MLflow's assistant.

    Args:
        scores: The scores of the benchmark; those with a label are shown.
        names: Names of its runs, which must fit into their column.
        curves: Whether runs have scores at several checkpoints, to be drawn as lines.
    """
    labelled = [score for score in scores if score.label]
    main = [score for score in labelled if score.summary]
    ranking = SUMMARY if main or not labelled else labelled[0]
    first = [ranking, *(score for score in main if score is not ranking)]
    rest = [score for score in labelled if score not in first]
    heads = [mlflow_name(score.label) for score in first]
    others = [mlflow_name(score.label) for score in rest]
    widths = {
        _RUN_NAME: _fitting(max(names, key=len, default=""), _NAME_WIDTHS),
        _CREATED: _CREATED_WIDTH,
        **_columns(heads, _COLUMN_WIDTH),
        **_columns(reversed(list(CELL_COLUMNS)), _CELL_WIDTH),
        **_columns(others, _OTHER_WIDTH),
    }
    keys = [score.key for score in (*first, *rest)]
    lines = keys[: len(first)] if curves else []
    charts = [
        *(_chart("LINE", f"line-{key}", _LINES, 20, **_line(key)) for key in lines),
        *_overview(main),
        *(_chart("BAR", key, _SCORES, 20, metricKey=key) for key in (*keys, _SECONDS)),
    ]
    sections = [
        _section(_LINES, "Scores by number of edits", columns=1, height=400),
        _section(_OVERVIEW, "All runs at once", columns=1, height=400),
        # One per row: MLflow shows the first two lines of a legend and cuts off the others.
        _section(_SCORES, "Each score", columns=1, height=360),
    ]
    used = {chart["metricSectionId"] for chart in charts}
    state = {
        "orderByKey": f"metrics.`{mlflow_name(ranking.key)}`",
        "orderByAsc": ranking.higher_is_better is False,
        "selectedColumns": [column for column in widths if column.startswith("tags.")],
        "columnOrder": list(widths),
        "columnWidths": widths,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": charts,
        "compareRunSections": [section for section in sections if section["uuid"] in used],
        "isAccordionReordered": True,
    }
    return _named(_RANKED.format(ranking.label or ranking.key), state)


def _named(name: str, state: Mapping[str, Any]) -> str:
    """A view as a tag's value.

    MLflow 3.17 and later list it by name in the menu *Views* and read the compressed copy; earlier
    versions read the other keys, with as many charts as their limit allows.
    """
    packed = _PACKED + base64.b64encode(zlib.compress(_json(state).encode(), 9)).decode()
    for n_charts in range(len(state["compareRunCharts"]), -1, -1):
        shown = {**state, "compareRunCharts": state["compareRunCharts"][:n_charts]}
        # MLflow sorts views by their time of creation; ours has none, so that it stays the same.
        named = _json({"name": name, "createdAt": 0, "state": packed, **shown})
        if len(named) <= _LONGEST_TAG:
            return named
    return packed  # all versions read it, but list it nowhere


def state_of(shared: str) -> dict[str, Any]:
    """The view in a tag's value."""
    if shared.startswith(_PACKED):
        shared = zlib.decompress(base64.b64decode(shared.removeprefix(_PACKED))).decode()
    state: dict[str, Any] = json.loads(shared)
    return state_of(state["state"]) if "state" in state else state


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _columns(heads: Iterable[str], width: int) -> dict[str, int]:
    return {f"tags.`{head}`": width for head in heads}


def _fitting(name: str, widths: tuple[int, int]) -> int:
    """Width of a column for a name, between the narrowest and widest, in pixels."""
    narrowest, widest = widths
    return max(narrowest, min(round(_NAME_MARGIN + _CHARACTER * len(name)), widest))


def _line(key: str) -> dict[str, Any]:
    """Options of a line chart over the number of edits in the model.

    A chart without a smoothness is smoothed: it would show scores that nobody measured.
    """
    return {
        "metricKey": key,
        "xAxisKey": "step",
        "range": {},
        "displayPoints": True,
        "lineSmoothness": 0,
    }


def _overview(main: Sequence[Score]) -> list[dict[str, Any]]:
    """A scatter plot of the last two main scores, and parallel coordinates of all of them.

    In the order of the papers' tables, the last two are generalization and specificity.
    """
    keys = [score.key for score in main]
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
    }
