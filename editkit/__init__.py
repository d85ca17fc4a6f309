"""editkit: edit single facts in language models, find where they live, measure what an edit did.

Everything in ``__all__`` is public. Names that need torch are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from editkit.consequences import Consequence, OpenQuestion
from editkit.data_types import (
    EditRequest,
    Fact,
    Failure,
    Localization,
    Probe,
    Record,
    Records,
    RejectedRecord,
    RequiredStatistic,
    Requirements,
    Score,
)
from editkit.errors import (
    CacheError,
    ClusterError,
    ConfigError,
    DatasetError,
    DeltaError,
    EditkitError,
    JudgeError,
    LedgerError,
    ModelError,
    PluginError,
    RequestError,
    StoreError,
    TrackingError,
    UsageError,
)
from editkit.interfaces import (
    Config,
    Dataset,
    Editor,
    JointEditor,
    Judge,
    Locator,
    Metric,
    MetricRow,
    ModelMetric,
    State,
)
from editkit.judging import Attempt, Verdict
from editkit.models import lookup as _lookup
from editkit.palette import Style
from editkit.progress import counting, show_progress
from editkit.registry.architectures import OF_PLUGINS as _OF_PLUGINS
from editkit.registry.hookspecs import hookimpl
from editkit.registry.specs import (
    BenchmarkSpec,
    CommandSpec,
    DatasetSpec,
    EditorSpec,
    JudgeSpec,
    LayerRule,
    LocatorSpec,
    MetricSpec,
    ModelMetricSpec,
    ModelSpec,
    PublishedTableSpec,
)

if TYPE_CHECKING:
    from editkit.benchmark.store import runs_in
    from editkit.editing.delta_files import load_delta, save_delta
    from editkit.editing.deltas import (
        Dense,
        LowRank,
        PromptContext,
        Rows,
        WeightDelta,
        applied,
    )
    from editkit.editing.edited_models import EditedModels
    from editkit.models import LanguageModel
    from editkit.patches.ledger import Ledger
    from editkit.patches.making import edit, edit_many
    from editkit.patches.patch import Patch
    from editkit.registry.factories import (
        make_dataset,
        make_editor,
        make_judge,
        make_locator,
        make_metric,
        make_model_metric,
    )
    from editkit.registry.models import load_model
    from editkit.tracing.trace import Trace, trace

__version__ = "0.1.0"

_lookup.consult(_OF_PLUGINS)

_LAZY = {
    "Dense": "editkit.editing.deltas",
    "EditedModels": "editkit.editing.edited_models",
    "LanguageModel": "editkit.models",
    "Ledger": "editkit.patches.ledger",
    "LowRank": "editkit.editing.deltas",
    "PromptContext": "editkit.editing.deltas",
    "Patch": "editkit.patches.patch",
    "Rows": "editkit.editing.deltas",
    "WeightDelta": "editkit.editing.deltas",
    "applied": "editkit.editing.deltas",
    "edit": "editkit.patches.making",
    "edit_many": "editkit.patches.making",
    "load_delta": "editkit.editing.delta_files",
    "load_model": "editkit.registry.models",
    "runs_in": "editkit.benchmark.store",
    "make_dataset": "editkit.registry.factories",
    "make_editor": "editkit.registry.factories",
    "make_judge": "editkit.registry.factories",
    "make_locator": "editkit.registry.factories",
    "make_metric": "editkit.registry.factories",
    "make_model_metric": "editkit.registry.factories",
    "save_delta": "editkit.editing.delta_files",
    "Trace": "editkit.tracing.trace",
    "trace": "editkit.tracing.trace",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'editkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is public, loaded or not: interpreters complete names by it."""
    return sorted({*__all__, "__version__"})


__all__ = [
    "Attempt",
    "BenchmarkSpec",
    "CacheError",
    "ClusterError",
    "CommandSpec",
    "Config",
    "ConfigError",
    "Consequence",
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
    "JointEditor",
    "Judge",
    "JudgeError",
    "JudgeSpec",
    "LanguageModel",
    "LayerRule",
    "Ledger",
    "LedgerError",
    "Localization",
    "Locator",
    "LocatorSpec",
    "LowRank",
    "Metric",
    "MetricRow",
    "MetricSpec",
    "ModelError",
    "ModelMetric",
    "ModelMetricSpec",
    "ModelSpec",
    "OpenQuestion",
    "Patch",
    "PluginError",
    "Probe",
    "PromptContext",
    "PublishedTableSpec",
    "Record",
    "Records",
    "RejectedRecord",
    "RequestError",
    "RequiredStatistic",
    "Requirements",
    "Rows",
    "Score",
    "State",
    "StoreError",
    "Style",
    "Trace",
    "TrackingError",
    "UsageError",
    "Verdict",
    "WeightDelta",
    "applied",
    "counting",
    "edit",
    "edit_many",
    "hookimpl",
    "load_delta",
    "load_model",
    "make_dataset",
    "make_editor",
    "make_judge",
    "make_locator",
    "make_metric",
    "make_model_metric",
    "runs_in",
    "save_delta",
    "show_progress",
    "trace",
]
