"""The metric ``change-norm``: how large is the change, next to the weights that it is added to?

For each changed layer l (a module, with its weight and bias), Frobenius norms give::

    r_l   = |dW_l| / |W_l|
    max   = max over l of r_l
    total = sqrt(sum over l of |dW_l|^2) / sqrt(sum over l of |W_l|^2)

Only changed layers enter the sums. Nothing is run.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from editkit import EditedModels, LanguageModel, MetricRow, ModelMetric, WeightDelta
from editkit_plugins.model_health.config import ChangeNormConfig

_LARGEST = 1e18
"""Bound of every norm, for changes that are not finite; its square is finite."""


class ChangeNorm(ModelMetric[ChangeNormConfig]):
    """Norm of the change relative to the norm of the changed weights."""

    def score(self, models: EditedModels) -> list[MetricRow]:
        """Largest and total relative norm, and the relative norm of each changed layer by name."""
        return [self._row(models.model, delta) for delta in models.deltas]

    def _row(self, model: LanguageModel, delta: WeightDelta) -> MetricRow:
        changes: dict[str, float] = {}  # squared norms by layer
        weights: dict[str, float] = {}
        for name, change in delta.changes.items():
            layer, size = name.rpartition(".")[0], _norm(change.dense())
            if size:
                changes[layer] = changes.get(layer, 0.0) + size**2
        for layer in changes:
            own = model.module(layer).parameters(recurse=False)
            weights[layer] = sum(_norm(parameter) ** 2 for parameter in own)
        relative = [_ratio(changes[layer], weights[layer]) for layer in changes]
        return {
            "change_norm/max": max(relative, default=0.0),
            "change_norm/total": _ratio(sum(changes.values()), sum(weights.values())),
            "change_norm/by_layer": relative,
            "change_norm/layers": list(changes),
        }


def _norm(values: Tensor) -> float:
    norm = float(torch.linalg.vector_norm(values.detach(), dtype=torch.float64))
    return min(norm, _LARGEST) if math.isfinite(norm) else _LARGEST


def _ratio(change: float, weight: float) -> float:
    """Ratio of two norms from their squares; weights that are all zero count as norm 1."""
    return math.sqrt(change / (weight or 1.0))
