"""ROME, rank-one model editing (Meng et al. 2022, section 3.1; appendix E.5 has the details).

For each request, at one layer, with W the output projection of its MLP (the paper's notation;
equation numbers are those of the final paper):

    step 1   k* = 1/N sum_j k(x_j + s)                   (3)   find_values -> Value.keys
    step 2   v* = argmin_z L(z)                          (4)   find_values -> Value.v_star
    step 3   W' = W + Λ (C⁻¹k*)ᵀ                         (2)   rank_one_update
             C = E[k kᵀ] over a corpus                         configured_second_moment, Whitening

Steps 1 and 2 and the update are in :mod:`editkit.editing.rome_value`, for other editors too. Here
they run in sequence (:meth:`RomeEditor.solve`), and edits that did not work are marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from editkit import Editor, EditRequest, LayerRule, LowRank, Requirements, WeightDelta
from editkit.covariance.second_moment import (
    Whitening,
    configured_second_moment,
    source_of_statistics,
)
from editkit.editing.outcomes import is_probable
from editkit.editing.rome_rows import request_rows, sampled_or_given_contexts
from editkit.editing.rome_value import RankOneUpdate, Value, find_values, rank_one_update
from editkit.models import LanguageModel, ModelShape
from editkit_plugins.rome.config import RomeConfig

_FLOAT = 4  # bytes

_AT_BOUND = 0.99
"""An offset this close to the clamp's radius is held back by it."""

_ORTHOGONAL = 1e-3
"""Share of a key along u below which the update divides by almost nothing."""


class RomeEditor(Editor[RomeConfig]):
    """Writes each fact with one rank-one update of one matrix."""

    name = "rome"

    def __init__(self, config: RomeConfig) -> None:
        super().__init__(config)
        self._whitening: tuple[str, Whitening | None] | None = None  # with C's model

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
            notes = {**unstable, **convergence(update.value, self.config, layer)}
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
        return [rank_one_update(value, solve, key=self.config.update_key) for value in values]

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
        """The second moment, and memory of the requests that are optimised side by side.

        The edited token is assumed to be in the middle of a request: only the tokens after it are
        run again at each step.
        """
        config = self.config
        layer = config.layer
        if layer is None:
            layer = LayerRule.A_TENTH.layer_of(shape.n_layers)
        path = shape.path(layer, "mlp_out")
        sampled = sum(n for n, _ in config.context_lengths)
        sampled = sampled if config.contexts is None else len(config.contexts)
        rows_per_request = (sampled if config.value_contexts else 0) + 2  # bare prompt, essence
        width = tokens // 2 + 1
        upper = shape.n_layers - layer
        budget = config.memory_mb * 2**20 // (_FLOAT * 40 * shape.hidden_size * upper)
        together = max(1, min(requests, budget // (rows_per_request * width)))
        deltas = requests * (shape.inner_size + shape.hidden_size) * _FLOAT
        return Requirements(
            memory=shape.backward_bytes(together * rows_per_request, width, upper) + deltas,
            statistics=config.statistics(path, shape.inner_size),
            notes=(f"{together} of {requests} requests are optimised side by side (memory_mb)",),
        )


# ---------------------------------------------------------------- how it went


def convergence(value: Value, config: RomeConfig, layer: int) -> dict[str, Any]:
    """Notes on the value's optimisation: ``loss``, ``nll``, ``steps``, ``converged``, ``advice``.

    It converged if the whole loss fell below ``stop_loss``, or if the target is more probable than
    not: the essence and decay terms may keep the loss up after the target is learned.

    Args:
        value: The optimised value.
        config: Hyperparameters.
        layer: The edited block.
    """
    last = value.losses[-1]
    nll = last.nll / (value.tokens if config.target_loss == "sum" else 1)  # of one token
    notes = {"layer": layer, "loss": last.total, "nll": nll, "steps": len(value.losses)}
    if last.total < config.stop_loss or is_probable(nll):
        return {**notes, "converged": True}
    size, unit = float(value.delta.norm()), float(value.v0.norm())
    if config.clamp is not None and size >= _AT_BOUND * config.clamp * unit:
        advice = (
            f"raise clamp ({config.clamp:g}), which holds the value back, or edit another layer"
        )
    elif last.decay > last.nll:
        advice = f"lower weight_decay ({config.weight_decay:g}), which outweighs the target"
    elif last.kl > last.nll:
        advice = f"lower kl_factor ({config.kl_factor:g}), which outweighs the target"
    else:
        raised = f"raise steps ({config.steps}) or lr ({config.lr:g})"
        advice = (
            f"{raised}, or edit another layer than {layer} (layer: auto traces the model for it)"
        )
    return {**notes, "converged": False, "advice": advice}


def instability(
    update: RankOneUpdate, weight_norm: float, config: RomeConfig, layer: int
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
