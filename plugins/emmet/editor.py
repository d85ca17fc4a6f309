"""EMMET, equality-constrained mass editing (Gupta et al. 2024, *A Unified Framework for Model
Editing*).

MEMIT trades the new keys against those of a corpus; EMMET maps the new keys exactly, as ROME does
for one, and disturbs the keys of the corpus least:

    Delta = argmin tr(Delta A Deltaᵀ)  such that  Delta K = R                EmmetEditor.update
          = R D⁻¹ Kᵀ A⁻¹,   D = Kᵀ A⁻¹ K,   A = w C + update_norm_lambda · I

    n > 1:  D += emmet_lambda · I        (published code)

The values z, the keys K, the residuals R, the layers and C are MEMIT's
(:class:`editkit.methods.mass_editing.MassEditor`). With emmet_lambda above 0 the constraint is
relaxed: R (D + λI)⁻¹ Kᵀ A⁻¹ = R Kᵀ (λA + K Kᵀ)⁻¹, so the edit is MEMIT's with the weight λw. Only
emmet_lambda 0, or a single fact, maps the keys exactly.

Without emmet_lambda, facts with the same or nearly the same key (one subject in two prompts) cannot
all be met, and D is singular. D is then inverted where it can be, so that such facts share the mean
of what they ask for, and they are marked as unstable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from editkit.covariance.second_moment import SecondMoment, Whitening
from editkit.editing.changes import Change
from editkit.editing.spreading import Update, compact
from editkit.methods.least_squares import least_squares
from editkit.methods.mass_editing import MassEditor, Notes
from editkit.models import LanguageModel
from editkit_plugins.emmet import LAYER
from editkit_plugins.emmet.config import EmmetConfig

_SINGULAR = 1e-10
"""Eigenvalue of D, with its diagonal scaled to 1, below which it is not inverted."""

_OWN = 1e-6
"""Share of a key's squared length that no other key has, below which it is unstable."""


class EmmetEditor(MassEditor[EmmetConfig]):
    """Maps all keys to their values, with the least change for the keys of a corpus."""

    name = "emmet"
    layer_rule = LAYER

    def whitening_of(self, moment: SecondMoment) -> Whitening:
        """The factor of A."""
        config, c = self.config, super().whitening_of(moment)
        if config.update_norm_lambda == 0:
            return Whitening(config.weight**0.5 * c.factor)
        a = config.weight * c.matrix()
        a.diagonal().add_(config.update_norm_lambda)
        return Whitening(torch.linalg.cholesky(a))

    def update(self, model: LanguageModel, notes: Sequence[Notes]) -> Update:
        """Delta of each layer."""
        factors = self.whitenings(model)

        def delta(i: int, keys: Tensor, residuals: Tensor) -> Change:
            if len(keys) > 1 and self.config.emmet_lambda > 0:
                return least_squares(factors[i], keys, residuals, self.config.emmet_lambda)
            left, own = equality_constrained(factors[i], keys.double().cpu().T)
            for note, share in zip(notes, own.tolist(), strict=True):
                if share < _OWN:
                    note |= UNSTABLE
            return compact(left.to(keys.device), residuals)

        return delta


UNSTABLE = {
    "unstable": "its key is nearly a combination of the other keys, as with repeated subjects",
    "advice": "set emmet_lambda above 0 (0.1 in the published code), or write facts of one subject "
    "in different edits",
}


def equality_constrained(a: Whitening, k: Tensor) -> tuple[Tensor, Tensor]:
    """A⁻¹ K D⁻¹, and how far each key differs from all others.

    Args:
        a: The factor of A.
        k: K, (D, n), float64.

    Returns:
        (D, n), which R multiplies from the right; and the share of each key's squared length, in
        the metric of A⁻¹, that is its own, (n,).
    """
    s = torch.cholesky_solve(k, a.factor)  # A⁻¹ K, (D, n)
    d = k.T @ s  # (n, n)
    scale = d.diagonal().rsqrt()  # (n,)
    values, vectors = torch.linalg.eigh(scale[:, None] * d * scale)  # (n,), (n, n)
    own = 1 / (vectors.square() / (values.clamp(min=0) + _SINGULAR**1.5)).sum(dim=1)
    inverse = torch.where(values > _SINGULAR, 1 / values, 0.0)
    left = (s * scale) @ (vectors * inverse) @ (vectors.T * scale)
    return left, own
