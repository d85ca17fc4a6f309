"""Editors that write each fact with one rank-one update of one matrix.

Key, value and update are in :mod:`editkit.editing.rome_value`; here they run in sequence for many
requests, with the second moment C of the keys, and edits that did not work are marked. A method
adds its own update (:meth:`RankOneEditor.update`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from editkit.covariance.second_moment import (
    Whitening,
    configured_second_moment,
    source_of_statistics,
)
from editkit.data_types import EditRequest, Requirements
from editkit.editing.changes import LowRank
from editkit.editing.deltas import WeightDelta
from editkit.editing.rome_rows import request_rows, sampled_or_given_contexts
from editkit.editing.rome_value import RankOneUpdate, Value, find_values
from editkit.editing.value_reports import convergence, memory_of_values
from editkit.interfaces import Editor
from editkit.methods.rank_one_config import RankOneConfig
from editkit.models import LanguageModel, ModelShape
from editkit.registry.specs import LayerRule

__all__ = ["RankOneConfigT", "RankOneEditor", "Solve"]

RankOneConfigT = TypeVar("RankOneConfigT", bound=RankOneConfig)

Solve = Callable[[Tensor], Tensor]
"""Maps a key k, (D,), to C⁻¹k."""

_FLOAT = 4  # bytes

_ORTHOGONAL = 1e-3
"""Share of a key along u below which the update divides by almost nothing."""


class RankOneEditor(Editor[RankOneConfigT]):
    """Writes each fact with one rank-one update of the output projection of one MLP."""

    def __init__(self, config: RankOneConfigT) -> None:
        super().__init__(config)
        self._whitening: tuple[str, Whitening | None] | None = None  # with C's model

    @abstractmethod
    def update(self, value: Value, solve: Solve | None) -> RankOneUpdate:
        """The method's update.

        Args:
            value: Key and value of one request.
            solve: Maps a key to C⁻¹k; None if C is the identity.
        """

    def layer(self, model: LanguageModel) -> int:
        """The block that is edited: the config's, or a tenth of the depth."""
        layer = self.config.layer
        if layer is None:
            layer = LayerRule.A_TENTH.layer_of(model.n_layers)
        model.check_layer(layer)
        return layer

    def check(self, model: LanguageModel) -> None:
        """Refuse a layer that the model does not have, and a second moment without a corpus.

        Raises:
            ModelError: There is no such layer, or it has experts instead of one MLP.
            ConfigError: A second moment is wanted, but no corpus and no file was named.
        """
        model.path(self.layer(model), "mlp_out")
        self.config.corpus_for(self.name)

    def prepare(self, model: LanguageModel) -> None:
        """Sample the contexts and get the second moment, both cached.

        Raises:
            ConfigError: A second moment is wanted, but no corpus and no file was named; or it is
                singular and no ridge was set.
        """
        sampled_or_given_contexts(model, self.config)
        self.whitening(model)

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """One rank-one delta per request.

        Raises:
            RequestError: A subject has no token of its own.
            ModelError: A prompt is longer than the model's context.
        """
        layer = self.layer(model)
        name = f"{model.path(layer, 'mlp_out')}.weight"
        weight_norm = float(model.hf.get_parameter(name).detach().float().norm())
        deltas = []
        for request, update in zip(requests, self.solve(model, requests), strict=True):
            change = LowRank(update.u[:, None], update.right[None])  # (D, 1), (1, H)
            unstable = instability(update, weight_norm, self.config, layer)
            elsewhere = f"edit another layer than {layer} (layer: auto traces the model for it)"
            converged = convergence(update.value, self.config, elsewhere=elsewhere)
            notes = {**unstable, "layer": layer, **converged}
            if unstable and not notes["converged"]:
                notes["advice"] = f"{notes['advice']}; and {unstable['advice']}"
            deltas.append(self.delta(model, request, {name: change}, notes=notes))
        return deltas

    def solve(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[RankOneUpdate]:
        """Keys, values and updates in the paper's terms; :meth:`edit` turns them into deltas."""
        if not requests:
            return []
        contexts = sampled_or_given_contexts(model, self.config)
        whitening = self.whitening(model)
        rows = [request_rows(model, request, contexts, self.config) for request in requests]
        values = find_values(model, rows, self.layer(model), self.config)
        solve = None if whitening is None else whitening.solve
        return [self.update(value, solve) for value in values]

    def whitening(self, model: LanguageModel) -> Whitening | None:
        """C, factorised once for a model and all edits on top of it; None without C."""
        source = source_of_statistics(model, self.config)
        if self._whitening is None or self._whitening[0] != source:
            path = model.path(self.layer(model), "mlp_out")
            moment = configured_second_moment(model, path, self.config, editor=self.name)
            whitening = None if moment is None else Whitening.of(moment, self.config.ridge)
            self._whitening = (source, whitening)
        return self._whitening[1]

    def requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        """The second moment, and memory of the requests that are optimised side by side."""
        config = self.config
        layer = config.layer
        if layer is None:
            layer = LayerRule.A_TENTH.layer_of(shape.n_layers)
        memory, note = memory_of_values(shape, layer, config, requests=requests, tokens=tokens)
        deltas = requests * (shape.inner_size + shape.hidden_size) * _FLOAT
        return Requirements(
            memory=memory + deltas,
            statistics=config.statistics(shape.path(layer, "mlp_out"), shape.inner_size),
            notes=(note,),
        )


def instability(
    update: RankOneUpdate, weight_norm: float, config: RankOneConfig, layer: int
) -> dict[str, str]:
    """Notes ``unstable`` and ``advice`` of an update that is unusually large; else none.

    Args:
        update: The update.
        weight_norm: Frobenius norm of the edited matrix.
        config: Hyperparameters.
        layer: The edited block.
    """
    norm, length = float(update.right.norm()), float(update.value.bare_key.norm())
    if abs(update.divisor) < _ORTHOGONAL * length:
        reason = f"the key is nearly orthogonal to u ({update.divisor:.2g})"
    elif norm > config.unstable_norm * weight_norm:
        reason = f"the update's norm is {norm:.3g}, the weight's {weight_norm:.3g}"
    else:
        return {}
    advice = f"raise ridge ({config.ridge:g}), or edit another layer than {layer}"
    return {"unstable": reason, "advice": advice}
