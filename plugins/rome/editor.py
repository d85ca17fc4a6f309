"""ROME, rank-one model editing (Meng et al. 2022, section 3.1; appendix E.5 has the details).

For each request, at one layer, with W the output projection of its MLP (the paper's notation;
equation numbers are those of the final paper):

    step 1   k* = 1/N sum_j k(x_j + s)                   (3)   find_values -> Value.keys
    step 2   v* = argmin_z L(z)                          (4)   find_values -> Value.v_star
    step 3   W' = W + Λ (C⁻¹k*)ᵀ                         (2)   rank_one_update
             C = E[k kᵀ] over a corpus                         configured_second_moment, Whitening

Steps 1 and 2 and the update are in :mod:`editkit.editing.rome_value`, for other editors too;
:mod:`editkit.methods.rank_one` runs them in sequence.
"""

from __future__ import annotations

from editkit.editing.rome_value import RankOneUpdate, Value, rank_one_update
from editkit.methods.rank_one import RankOneEditor, Solve
from editkit_plugins.rome.config import RomeConfig


class RomeEditor(RankOneEditor[RomeConfig]):
    """Writes each fact with one rank-one update of one matrix."""

    name = "rome"

    def update(self, value: Value, solve: Solve | None) -> RankOneUpdate:
        """Equation 2; u comes from k*, whichever key is mapped to v*."""
        return rank_one_update(value, solve, key=self.config.update_key)
