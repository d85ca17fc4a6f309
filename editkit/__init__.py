"""editkit: edit single facts in language models, find where they live, measure what an edit did.

Everything in ``__all__`` is public. Names that need torch are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from editkit.errors import (
    CacheError,
    ConfigError,
    DatasetError,
    DeltaError,
    EditkitError,
    ModelError,
    PluginError,
    RequestError,
    StoreError,
    TrackingError,
    UsageError,
)
from editkit.hookspecs import hookimpl
from editkit.interfaces import (
    BenchmarkSpec,
    CommandSpec,
    Config,
    Dataset,
    DatasetSpec,
    Editor,
    EditorSpec,
    Fact,
    LayerRule,
    Localization,
    Locator,
    LocatorSpec,
    Metric,
    MetricRow,
    MetricSpec,
    ModelSpec,
    Probe,
    PublishedTableSpec,
    Record,
    Records,
    RejectedRecord,
)
from editkit.needs import Needs, StatisticNeeds
from editkit.requests import EditRequest
from editkit.scores import Failure, Score

if TYPE_CHECKING:
    from editkit.delta_files import load_delta, save_delta
    from editkit.deltas import Dense, LowRank, Rows, WeightDelta, applied
    from editkit.edited import EditedModels
    from editkit.making import make_dataset, make_editor, make_locator, make_metric
    from editkit.models import LanguageModel, load_model
    from editkit.traces import Trace, trace

__version__ = "0.1.0"

_LAZY = {
    "Dense": "editkit.deltas",
    "EditedModels": "editkit.edited",
    "LanguageModel": "editkit.models",
    "LowRank": "editkit.deltas",
    "Rows": "editkit.deltas",
    "WeightDelta": "editkit.deltas",
    "applied": "editkit.deltas",
    "load_delta": "editkit.delta_files",
    "load_model": "editkit.models",
    "make_dataset": "editkit.making",
    "make_editor": "editkit.making",
    "make_locator": "editkit.making",
    "make_metric": "editkit.making",
    "save_delta": "editkit.delta_files",
    "Trace": "editkit.traces",
    "trace": "editkit.traces",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'editkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is public, loaded or not: interpreters complete names by it."""
    return sorted({*__all__, "__version__"})


__all__ = [
    "BenchmarkSpec",
    "CacheError",
    "CommandSpec",
    "Config",
    "ConfigError",
    "Dataset",
    "DatasetError",
    "DatasetSpec",
    "DeltaError",
    "Dense",
    "EditRequest",
    "EditedModels",
    "EditkitError",
    "Editor",
    "EditorSpec",
    "Fact",
    "Failure",
    "LanguageModel",
    "LayerRule",
    "Localization",
    "Locator",
    "LocatorSpec",
    "LowRank",
    "Metric",
    "MetricRow",
    "MetricSpec",
    "ModelError",
    "ModelSpec",
    "Needs",
    "PluginError",
    "Probe",
    "PublishedTableSpec",
    "Record",
    "Records",
    "RejectedRecord",
    "RequestError",
    "Rows",
    "Score",
    "StatisticNeeds",
    "StoreError",
    "Trace",
    "TrackingError",
    "UsageError",
    "WeightDelta",
    "applied",
    "hookimpl",
    "load_delta",
    "load_model",
    "make_dataset",
    "make_editor",
    "make_locator",
    "make_metric",
    "save_delta",
    "trace",
]
