"""Every array of ``parity/alphaedit``: three steps of four facts, the cached keys accumulating."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from editkit import EditRequest, WeightDelta, applied
from editkit.covariance.second_moment import SecondMoment, compute_second_moment
from editkit.editing.changes import Change
from editkit.editing.deltas import stack
from editkit.editing.rome_value import Value
from editkit.editing.spreading import Update
from editkit.models import LanguageModel
from editkit_plugins.alphaedit.config import AlphaEditConfig
from editkit_plugins.alphaedit.editor import AlphaEditEditor
from editkit_plugins.alphaedit.null_space import (
    EarlierKeys,
    kept_basis,
    null_space_update,
    projected,
)
from tests.parity import Parity, difference, logits_at, requests_of, symmetric

LAYERS, STEPS = (1, 2, 3), (0, 1, 2)
WEIGHTS = {"L2_10": 10.0, "L2_1": 1.0}


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDITKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@dataclasses.dataclass
class Read:
    """What one step read and computed."""

    values: Sequence[Value]
    keys: list[Tensor]
    residuals: list[Tensor]


class PinnedAlphaEdit(AlphaEditEditor):
    """AlphaEdit with the reference's second moments; records what it reads."""

    def __init__(self, parity: Parity, layers: Sequence[int], **changes: Any) -> None:
        groups = parity.json("alphaedit/context_templates.json")["groups"]
        contexts = tuple(template.removesuffix("{}") for template in groups[1])
        super().__init__(AlphaEditConfig(layers=tuple(layers), contexts=contexts, **changes))
        self.parity, self.read = parity, list[Read]()

    def second_moments(self, model: LanguageModel) -> tuple[SecondMoment, ...]:
        assert self.config.layers
        return tuple(moment(self.parity, layer) for layer in self.config.layers)

    def values(self, model, requests):
        rows, values = super().values(model, requests)
        self.read.append(Read(values, [], []))
        return rows, values

    def _update(self, model: LanguageModel, state: Mapping[str, Tensor]) -> Update:
        update = super()._update(model, state)

        def recorded(i: int, keys: Tensor, residuals: Tensor) -> Change:
            self.read[-1].keys.append(keys)
            self.read[-1].residuals.append(residuals)
            return update(i, keys, residuals)

        return recorded


@dataclasses.dataclass
class Run:
    """A sequence of three steps."""

    editor: PinnedAlphaEdit
    deltas: list[WeightDelta]
    states: list[Mapping[str, Tensor]]
    logits: list[Tensor]


def moment(parity: Parity, layer: int) -> SecondMoment:
    upper = parity.arrays("alphaedit")[f"second_moment_l{layer}_upper"]
    return SecondMoment(symmetric(upper), 13582)


def run(parity: Parity, layers: Sequence[int], **changes: Any) -> Run:
    editor = PinnedAlphaEdit(parity, layers, **changes)
    model, requests = parity.model, requests_of(parity, "alphaedit")
    probes = [probe["text"] for probe in parity.json("alphaedit/probes.json")]
    result = Run(editor, [], [], [])
    state: Mapping[str, Tensor] = {}
    total: WeightDelta | None = None
    before = model.weights_digest()
    for step in STEPS:
        some = requests[4 * step : 4 * step + 4]
        if total is None:
            delta, state = editor.step(model, some, state)
            total = delta
        else:
            with applied(model, total):
                delta, state = editor.step(model, some, state)
            total = stack([total, delta])
        result.deltas.append(delta)
        result.states.append(state)
        with applied(model, total):
            result.logits.append(logits_at(model, probes))
    assert model.weights_digest() == before
    return result


@pytest.fixture(scope="module", params=sorted(WEIGHTS))
def main_run(request: pytest.FixtureRequest, parity: Parity) -> tuple[str, Run]:
    values = {"threshold": 0.02663, "identity_weight": WEIGHTS[request.param]}
    return request.param, run(parity, LAYERS, **values)


def check_values(parity: Parity, name: str, result: Run) -> None:
    arrays = parity.arrays("alphaedit")
    for step in STEPS:
        values = result.editor.read[step].values
        z = torch.stack([value.v_star for value in values])
        assert difference(z, arrays[f"{name}.b{step}.z"]) < 1e-4
        for case, value in enumerate(values, start=4 * step):
            losses = [(x.total, x.nll, x.kl, x.decay) for x in value.losses]
            expected = arrays[f"{name}.case{case}.loss"]
            actual = torch.tensor(losses, dtype=torch.float64)
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
            probability = arrays[f"{name}.case{case}.target_prob"].tolist()
            for (_, nll, _, _), mean in zip(losses, probability, strict=True):
                assert torch.exp(torch.tensor(-nll)) <= mean + 1e-5  # Jensen: a mean over contexts


def test_what_each_layer_reads_and_writes(parity: Parity, main_run: tuple[str, Run]) -> None:
    (name, result), arrays = main_run, parity.arrays("alphaedit")
    check_values(parity, name, result)
    for step in STEPS:
        read, delta = result.editor.read[step], result.deltas[step]
        z = torch.stack([value.v_star for value in read.values])
        for i, layer in enumerate(LAYERS):
            own = {
                field: arrays[f"{name}.b{step}.l{layer}.{field}"]
                for field in ("keys", "cur", "keys_after", "upd_left", "upd_right", "upd64_left")
            }
            assert difference(read.keys[i], own["keys"]) < 1e-5
            assert difference(z - read.residuals[i] * (3 - i), own["cur"]) < 1e-5
            kept = result.states[step][f"keys.{layer}"]
            assert len(kept) == 4 * (step + 1)
            assert difference(kept[-4:], own["keys_after"]) < 1e-5
            change = delta.changes[f"transformer.h.{layer}.mlp.c_proj.weight"].dense()
            assert difference(change, own["upd_left"] @ own["upd_right"]) < 2e-4


def test_logits(parity: Parity, main_run: tuple[str, Run]) -> None:
    (name, result), arrays = main_run, parity.arrays("alphaedit")
    probes = [probe["text"] for probe in parity.json("alphaedit/probes.json")]
    unedited = logits_at(parity.model, probes)
    torch.testing.assert_close(unedited, arrays["logits_unedited"], rtol=0, atol=2e-4)
    names = {f"{name}.b{step}.logits": step for step in STEPS} | {f"{name}.logits_final": 2}
    for array, step in names.items():
        if array in arrays:
            torch.testing.assert_close(result.logits[step], arrays[array], rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_the_closed_form_from_the_stored_keys(parity: Parity, name: str) -> None:
    arrays = parity.arrays("alphaedit")
    runs = {run["tag"]: run["batches"] for run in parity.json("alphaedit/runs.json")["runs"]}
    for i, layer in enumerate(LAYERS):
        basis, earlier = kept_basis(moment(parity, layer), 0.02663), EarlierKeys()
        for step in STEPS:
            own = {
                field: arrays[f"{name}.b{step}.l{layer}.{field}"]
                for field in ("keys", "cur", "keys_after", "upd64_left")
            }
            residuals = (arrays[f"{name}.b{step}.z"] - own["cur"]) / (3 - i)
            change = null_space_update(basis, earlier, own["keys"], residuals, WEIGHTS[name])
            assert difference(change.dense(), own["upd64_left"] @ residuals) < 1e-5
            earlier = earlier.with_more(own["keys_after"])
            figures = runs[name][step]["layers"][i]
            check_products(earlier, figures)
            lengths = projected(basis, own["keys"].double().T).norm(dim=0).tolist()
            assert lengths == pytest.approx(figures["norm_P_keys"], rel=1e-4)
            assert float(change.dense().norm()) == pytest.approx(figures["update_norm"], rel=1e-4)


def check_products(earlier: EarlierKeys, figures: Mapping[str, Any]) -> None:
    products = earlier.products()
    assert isinstance(products, Tensor)
    cosines = torch.cos(torch.arange(576, dtype=torch.float64))
    assert float(products.trace()) == pytest.approx(figures["cache_trace"], rel=1e-5)
    assert float(products.norm()) == pytest.approx(figures["cache_frobenius"], rel=1e-5)
    assert (products @ cosines)[:8].tolist() == pytest.approx(figures["cache_probe"], rel=1e-4)


def test_second_moments_and_bases(parity: Parity, tmp_path: Path) -> None:
    arrays, described = parity.arrays("alphaedit"), parity.json("alphaedit/second_moment.json")
    for layer in LAYERS:
        own = moment(parity, layer)
        module = f"transformer.h.{layer}.mlp.c_proj"
        actual = compute_second_moment(parity.model, module, described["texts"])
        assert actual.count == described["per_layer"][str(layer)]["n_tokens"]
        assert difference(actual.matrix, own.matrix) < 1e-6
        basis, stored = kept_basis(own, 0.02663), arrays[f"kept_basis_l{layer}"]
        assert basis.shape == stored.shape
        assert difference(basis @ basis.T, stored.double() @ stored.double().T) < 1e-6
        values = torch.linalg.eigvalsh(own.matrix.double()).flip(0)
        singular = arrays[f"second_moment_l{layer}_singular_values"]
        torch.testing.assert_close(values, singular, rtol=1e-6, atol=1e-6)


def test_the_variant(parity: Parity) -> None:
    """Other layers, steps, rates, clamp, threshold and weight."""
    given = parity.json("alphaedit/hyperparameters.json")["variant"]
    result = run(
        parity,
        given["layers"],
        steps=given["v_num_grad_steps"],
        lr=given["v_lr"],
        weight_decay=given["v_weight_decay"],
        clamp=given["clamp_norm_factor"],
        kl_factor=given["kl_factor"],
        identity_weight=given["L2"],
        threshold=given["nullspace_threshold"],
    )
    check_values(parity, "variant", result)
    null = parity.json("alphaedit/runs.json")["variant_null_dimensions"]
    for layer, basis in zip(given["layers"], result.editor.bases(parity.model), strict=True):
        assert basis.shape[0] - basis.shape[1] == null[str(layer)]
    expected = parity.arrays("alphaedit")["variant.logits_final"]
    torch.testing.assert_close(result.logits[-1], expected, rtol=0, atol=2e-3)


def test_a_joint_edit_is_the_first_step_of_a_sequence(parity: Parity) -> None:
    editor = PinnedAlphaEdit(parity, LAYERS, steps=3, identity_weight=1.0)
    requests: list[EditRequest] = requests_of(parity, "alphaedit")[:3]
    joint = editor.edit_jointly(parity.model, requests)
    step, _ = editor.step(parity.model, requests, {})
    assert joint.digest() == step.digest()
    [alone] = editor.edit(parity.model, requests[:1])
    assert alone.digest() == editor.edit_jointly(parity.model, requests[:1]).digest()
