"""MEMIT and EMMET with the reference's contexts and second moments, for their parity tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from editkit import EditRequest, applied
from editkit.covariance.second_moment import SecondMoment, Whitening
from editkit.editing.changes import Change
from editkit.editing.rome_value import Value
from editkit.editing.spreading import Update
from editkit.models import LanguageModel
from editkit_plugins.emmet.config import EmmetConfig
from editkit_plugins.emmet.editor import EmmetEditor
from editkit_plugins.memit.config import MemitConfig
from editkit_plugins.memit.editor import MemitEditor
from tests.parity import Parity, difference, logits_at, requests_of, symmetric

RIDGE = 1e-3
"""Added to the diagonal of C, as it was handed to the published code."""


def moment(parity: Parity, layer: int) -> SecondMoment:
    """C of a layer, with the ridge."""
    if layer == 1:
        matrix = parity.arrays("rome")["second_moment_C"]
    else:
        matrix = symmetric(parity.tensors("memit/second_moment")[f"C.layer{layer}.upper"])
    return SecondMoment(matrix + RIDGE * torch.eye(len(matrix)), 13582)


@dataclasses.dataclass
class Read:
    """What one joint edit read."""

    values: Sequence[Value] = ()
    keys: list[Tensor] = dataclasses.field(default_factory=list)
    residuals: list[Tensor] = dataclasses.field(default_factory=list)


class _Pinned:
    """Uses the stored second moments, and records what is read."""

    parity: Parity
    read: Read
    config: Any

    def whitenings(self, model: LanguageModel) -> tuple[Whitening, ...]:
        moments = (moment(self.parity, layer) for layer in self.config.layers)
        return tuple(self.whitening_of(each) for each in moments)  # type: ignore[attr-defined]

    def values(self, model: LanguageModel, requests: Sequence[EditRequest]) -> Any:
        rows, values = super().values(model, requests)  # type: ignore[misc]
        self.read = Read(values)
        return rows, values

    def update(self, model: LanguageModel, notes: Any) -> Update:
        update = super().update(model, notes)  # type: ignore[misc]

        def recorded(i: int, keys: Tensor, residuals: Tensor) -> Change:
            self.read.keys.append(keys)
            self.read.residuals.append(residuals)
            change: Change = update(i, keys, residuals)
            return change

        return recorded


class PinnedMemit(_Pinned, MemitEditor):
    """MEMIT."""


class PinnedEmmet(_Pinned, EmmetEditor):
    """EMMET."""


_EDITORS: Mapping[str, tuple[type, type]] = {
    "memit": (PinnedMemit, MemitConfig),
    "emmet": (PinnedEmmet, EmmetConfig),
}


class MassRun:
    """One joint edit of the first requests, compared with the arrays of a run.

    Args:
        parity: The parity folder.
        method: ``memit`` or ``emmet``.
        n: Number of requests.
        values: Configuration besides the contexts.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        "v_num_grad_steps": "steps",
        "v_lr": "lr",
        "v_weight_decay": "weight_decay",
        "clamp_norm_factor": "clamp",
        "kl_factor": "kl_factor",
        "mom2_update_weight": "weight",
        "emmet_lambda": "emmet_lambda",
        "update_norm_lambda": "update_norm_lambda",
        "layers": "layers",
        "fact_token": "position",
    }

    def __init__(self, parity: Parity, method: str, n: int, values: Mapping[str, Any]) -> None:
        contexts = parity.json("memit/context_templates.json")[1]
        editor, config = _EDITORS[method]
        own = {self.renamed[name]: value for name, value in values.items() if name in self.renamed}
        own["layers"] = tuple(own["layers"])
        texts = tuple(text.removesuffix("{}") for text in contexts)
        self.parity, self.method = parity, method
        self.editor = editor(config(contexts=texts, ridge=0.0, second_moment=True, **own))
        self.editor.parity = parity
        self.model = parity.model
        self.requests = requests_of(parity, "memit")[:n]
        before = self.model.weights_digest()
        self.delta = self.editor.edit_jointly(self.model, self.requests)
        assert self.model.weights_digest() == before
        assert self.delta.requests == tuple(self.requests)

    @property
    def layers(self) -> tuple[int, ...]:
        layers: tuple[int, ...] = self.editor.config.layers
        return layers

    @property
    def z(self) -> Tensor:
        return torch.stack([value.v_star for value in self.editor.read.values])

    def change(self, layer: int) -> Tensor:
        return self.delta.changes[f"transformer.h.{layer}.mlp.c_proj.weight"].dense()

    def check(self, run: str) -> None:
        """Compare what was read and written in every layer with the arrays of a run."""
        arrays = self.parity.arrays(self.method)
        m = len(self.layers)
        for i, layer in enumerate(self.layers):
            own = f"{run}.layer{layer}"
            keys, residuals = self.editor.read.keys[i], self.editor.read.residuals[i]
            assert difference(residuals.T, arrays[f"{own}.resid"]) < 1e-4
            if f"{own}.keys" in arrays:
                assert difference(keys, arrays[f"{own}.keys"]) < 1e-4
                now = self.z - residuals * (m - i)
                assert difference(now, arrays[f"{own}.cur_z"]) < 1e-4
            expected = arrays[f"{own}.adj_k"] @ arrays[f"{own}.resid"].T
            assert difference(self.change(layer), expected) < 1e-4
        if f"{run}.logits" in arrays:
            probes = [probe["text"] for probe in self.parity.json("memit/probes.json")]
            with applied(self.model, self.delta):
                logits = logits_at(self.model, probes)
            torch.testing.assert_close(logits, arrays[f"{run}.logits"], rtol=0, atol=2e-3)
