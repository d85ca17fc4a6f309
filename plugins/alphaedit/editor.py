"""AlphaEdit, edits in the null space of what a model should keep (Fang et al. 2024, 2410.02355).

For n facts and the edited layers l_0 < ... < l_(m-1), L the last of them, with k the input of an
MLP's output projection W, h the output of a block, both at the subject's last token, and C the mean
of k kᵀ over the tokens of a corpus, in the model without any edit:

    once     C = U S Uᵀ, B = columns of U with S >= threshold            null_space.kept_basis
             P = I - B Bᵀ                                                null_space.projected
    step 1   z_j = h_j + delta_j, delta_j = argmin L(h_j + delta)        MassEditor.values
             k_j = average over contexts of k                            spreading.average_keys
    step 2   for each layer l_i, on the model with the layers before it changed:
                 r_j   = (z_j - h_j) / (m - i)                           spreading.spread
                 Delta = R Kᵀ P (K_0 K_0ᵀ P + K Kᵀ P + lambda I)⁻¹       null_space_update
                 W_i  += Delta
    step 3   K_0 = [K_0 K'], K' the keys k_j of the edited model         AlphaEditEditor.step

with K = [k_1 ... k_n] and R = [r_1 ... r_n]. P removes what the corpus uses, so that Delta k = 0
for keys in those directions. K_0, the keys of the facts of all earlier steps of a sequence, is the
editor's state. It is empty at the start, so that a joint edit is the first step of a sequence.
Everything is read on the model as edited so far, and the values z are optimised again at each step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from editkit import EditRequest, RequestError, WeightDelta, applied
from editkit.covariance.second_moment import SecondMoment, source_of_statistics
from editkit.editing.changes import Change
from editkit.editing.rome_rows import sampled_or_given_contexts
from editkit.editing.spreading import Update, average_keys
from editkit.methods.mass_editing import MassEditor, Notes
from editkit.models import LanguageModel
from editkit_plugins.alphaedit import LAYERS
from editkit_plugins.alphaedit.config import AlphaEditConfig
from editkit_plugins.alphaedit.null_space import EarlierKeys, kept_basis, null_space_update

State = Mapping[str, Tensor]
"""``keys.LAYER`` or ``products.LAYER``: the fields of :class:`EarlierKeys` by edited layer."""


class AlphaEditEditor(MassEditor[AlphaEditConfig]):
    """Writes all facts of a step in the null space of a corpus and of the facts before them."""

    name = "alphaedit"
    layer_rule = LAYERS

    def __init__(self, config: AlphaEditConfig) -> None:
        super().__init__(config)
        self._bases: tuple[str, tuple[Tensor, ...]] | None = None  # with C's model

    def prepare(self, model: LanguageModel) -> None:
        """Sample the contexts, and get the second moments and their null spaces, all cached.

        Raises:
            ConfigError: A second moment is wanted, but no corpus and no file was named.
        """
        sampled_or_given_contexts(model, self.config)
        self.bases(model)

    def bases(self, model: LanguageModel) -> tuple[Tensor, ...]:
        """B of each layer, (D, kept), once for a model and all edits on top of it.

        Without a second moment, no directions are kept.
        """
        source = source_of_statistics(model, self.config)
        if self._bases is None or self._bases[0] != source:
            self._bases = (
                source,
                tuple(self._basis(moment) for moment in self.second_moments(model)),
            )
        return self._bases[1]

    def _basis(self, moment: SecondMoment) -> Tensor:
        config = self.config
        if not config.second_moment:
            return moment.matrix.new_zeros(len(moment.matrix), 0, dtype=torch.float64)
        unit = 1.0
        if config.threshold_unit == "mean":
            unit = float(moment.matrix.diagonal().double().mean())  # the mean eigenvalue
        return kept_basis(moment, config.threshold * unit)

    def advice_against_large_changes(self) -> str:
        """As the base class; AlphaEdit has no ridge."""
        return f"raise identity_weight ({self.config.identity_weight:g})"

    def update(self, model: LanguageModel, notes: Sequence[Notes]) -> Update:
        """Delta of each layer without earlier facts."""
        return self._update(model, {})

    def _update(self, model: LanguageModel, state: State) -> Update:
        bases = self.bases(model)
        earlier = [_earlier(state, layer) for layer in self.layers(model)]
        weight = self.config.identity_weight

        def delta(i: int, keys: Tensor, residuals: Tensor) -> Change:
            return null_space_update(bases[i], earlier[i], keys, residuals, weight)

        return delta

    def step(
        self, model: LanguageModel, requests: Sequence[EditRequest], state: State
    ) -> tuple[WeightDelta, State]:
        """Write facts on top of all earlier steps; the state is the keys of all facts so far.

        Raises:
            RequestError: There are no requests, or a subject has no token of its own.
            ModelError: A prompt is longer than the model's context.
        """
        if not requests:
            raise RequestError(
                f"{self.name} was given no requests to write.", hint="Give at least one."
            )
        rows, values = self.values(model, requests)
        update = self._update(model, state)
        changes, notes = self.written(model, rows, values, update=update)
        delta = self.delta(model, tuple(requests), changes, notes={"facts": notes})
        after: dict[str, Tensor] = {}
        with applied(model, delta):
            for layer in self.layers(model):
                keys = average_keys(model, rows, layer, self.config)  # K', (n, D)
                after |= _stored(_earlier(state, layer).with_more(keys), layer)
        return delta, after


def _earlier(state: State, layer: int) -> EarlierKeys:
    return EarlierKeys(state.get(f"keys.{layer}"), state.get(f"products.{layer}"))


def _stored(earlier: EarlierKeys, layer: int) -> dict[str, Tensor]:
    fields = {"keys": earlier.keys, "products": earlier.total}
    return {f"{name}.{layer}": t for name, t in fields.items() if t is not None}
