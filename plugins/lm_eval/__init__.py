"""Tasks of EleutherAI's lm-evaluation-harness on edited models (``docs/general-ability.md``).

The metric ``lm-eval`` needs the extra ``lm-eval``. ``import lm_eval`` in these modules is the
harness: this package is ``editkit_plugins.lm_eval``.
"""

from __future__ import annotations

from editkit import ModelMetricSpec, hookimpl

_HERE = "editkit_plugins.lm_eval"


@hookimpl
def editkit_model_metrics() -> list[ModelMetricSpec]:
    """Register the metric."""
    return [
        ModelMetricSpec(
            name="lm-eval",
            factory=f"{_HERE}.metric:LmEval",
            config=f"{_HERE}.config:LmEvalConfig",
            summary="scores in tasks of EleutherAI's lm-evaluation-harness",
            protocol="editkit/lm-evaluation-harness/v1",
            scores_of=f"{_HERE}.config:scores_of",
        )
    ]
