"""R-ROME (Gupta et al. 2024, *Rebuilding ROME*, arXiv 2403.07175): ROME with one key everywhere.

ROME's published code takes the direction u of its update from the mean key over contexts, but
divides by the inner product of u with the key of the bare prompt. In a sequence of edits, single
edits then break the model. For each request, at one layer, with W the output projection of its MLP,
N contexts x_j, k_j and m_j the input and the output of W at the subject's last token in context j,
and k_0 and m_0 those in the bare prompt:

    step 1   k* = 1/N sum_j k_j       (R-ROME)             find_values -> Value.keys
             k* = k_0                 (p-ROME)             find_values -> Value.bare_key
    step 2   v* = m_0 + delta, as in ROME                  find_values -> Value.v_star
    step 3   u  = C⁻¹k* / |C⁻¹k*|                          rank_one_update
             right = (v* - Wk*) / (k* . u)
             W' = W + right uᵀ, so that W'k* = v*

Wk*, with the bias, is the mean of the outputs m_j in R-ROME, and m_0 in p-ROME, where the numerator
is delta. R-ROME maps the mean key to v*, so the bare prompt reaches v* only approximately. The
steps are those of :mod:`editkit.editing.rome_value`.
"""

from __future__ import annotations

from editkit.editing.rome_value import RankOneUpdate, Value, rank_one_update
from editkit.methods.rank_one import RankOneEditor, Solve
from editkit_plugins.rrome.config import RRomeConfig


class RRomeEditor(RankOneEditor[RRomeConfig]):
    """Writes each fact with one rank-one update that uses the same key throughout."""

    name = "r-rome"

    def update(self, value: Value, solve: Solve | None) -> RankOneUpdate:
        """Step 3."""
        return rank_one_update(value, solve, key=self.config.key, direction=self.config.key)
