"""MEMIT, mass-editing memory in a transformer (Meng et al. 2023, section 4).

For n facts and the edited layers l_0 < ... < l_(m-1), L the last of them, with k the input of an
MLP's output projection W, h the output of a block, both at the subject's last token:

    step 1   z_j = h_j + delta_j, delta_j = argmin L(h_j + delta)        MassEditor.values
             k_j = average over contexts of k                            spreading.average_keys
    step 2   for each layer l_i, on the model with the layers before it changed:
                 r_j   = (z_j - h_j) / (m - i)                           spreading.spread
                 Delta = R Kᵀ (w C + K Kᵀ)⁻¹                             MemitEditor.update
                 W_i  += Delta

with K = [k_1 ... k_n], R = [r_1 ... r_n], and C = E[k kᵀ] over a corpus, per token. Delta is the
least-squares solution for the new keys together with w times the keys of the corpus, which should
keep their outputs. All steps but Delta are in :class:`editkit.methods.mass_editing.MassEditor`, and
:func:`editkit.methods.least_squares.least_squares` has the closed form.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from editkit.editing.changes import Change
from editkit.editing.spreading import Update
from editkit.methods.least_squares import least_squares
from editkit.methods.mass_editing import MassEditor, Notes
from editkit.models import LanguageModel
from editkit_plugins.memit import LAYERS
from editkit_plugins.memit.config import MemitConfig


class MemitEditor(MassEditor[MemitConfig]):
    """Writes all facts by least squares, with an equal share of the way per layer."""

    name = "memit"
    layer_rule = LAYERS

    def update(self, model: LanguageModel, notes: Sequence[Notes]) -> Update:
        """Delta of each layer."""
        whitenings = self.whitenings(model)

        def delta(i: int, keys: Tensor, residuals: Tensor) -> Change:
            return least_squares(whitenings[i], keys, residuals, self.config.weight)

        return delta
