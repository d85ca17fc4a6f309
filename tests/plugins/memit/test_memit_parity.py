"""Every array of ``parity/memit``, and MEMIT against a plain oracle in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from editkit_plugins.memit.editor import MemitEditor
from tests.parity import Parity, difference
from tests.plugins.mass_parity import MassRun, moment

RUNS = [
    f"{layers}.n{n}.w{w}" for layers in ("L123", "L2") for n in (1, 4, 16) for w in (100, 15000)
]


def values_of(parity: Parity, run: str) -> dict[str, object]:
    values: dict[str, object] = parity.json("memit/runs.json")["runs"][run]["hyperparameters"]
    return values


@pytest.mark.parametrize("name", RUNS)
def test_what_each_layer_reads_and_writes(parity: Parity, name: str) -> None:
    n = int(name.split(".")[1][1:])
    run = MassRun(parity, "memit", n, values_of(parity, name))
    arrays, last = parity.arrays("memit"), run.layers[-1]
    assert difference(run.z, arrays[f"z.layer{last}"][:n]) < 1e-4
    v0 = torch.stack([value.v0 for value in run.editor.read.values])
    assert difference(v0, arrays[f"cur_z0.layer{last}"][:n]) < 1e-5
    first = run.layers[0]
    assert difference(run.editor.read.keys[0], arrays[f"keys0.layer{first}"][:n]) < 1e-5
    run.check(name)
    stored = parity.json("memit/runs.json")["value_optimisation"][f"z.layer{last}"]
    for value, entry in zip(run.editor.read.values, stored, strict=False):
        assert len(value.losses) == entry["evaluations"]
        totals = [loss.total for loss in value.losses]
        assert totals == pytest.approx(entry["loss_rounded_3"], abs=2e-3)


def test_the_variant(parity: Parity) -> None:
    """Other layers, steps, rates, clamp and position: no value is hard-coded."""
    values = {
        "layers": [1, 3], "mom2_update_weight": 30, "clamp_norm_factor": 4.0, "v_lr": 0.2,
        "v_num_grad_steps": 12, "kl_factor": 1.0, "v_weight_decay": 5.0,
        "fact_token": "subject_first",
    }  # fmt: skip
    run = MassRun(parity, "memit", 3, values)
    assert difference(run.z, parity.arrays("memit")["variant.z"]) < 1e-4
    run.check("variant")


@pytest.mark.parametrize("n", [3, 16])
def test_the_plain_formula(parity: Parity, n: int) -> None:
    """Delta = R Kᵀ (w C + K Kᵀ)⁻¹, in numpy."""
    run = MassRun(parity, "memit", n, values_of(parity, "L123.n16.w100"))
    for i, layer in enumerate(run.layers):
        k = run.editor.read.keys[i].double().numpy().T  # (D, n)
        r = run.editor.read.residuals[i].double().numpy().T  # (H, n)
        c = moment(parity, layer).matrix.double().numpy()
        plain = (r @ k.T) @ np.linalg.inv(100 * c + k @ k.T)  # (H, D)
        assert difference(run.change(layer), torch.from_numpy(plain.T)) < 1e-5


def test_a_joint_edit_of_one_fact_is_its_independent_edit(parity: Parity) -> None:
    run = MassRun(parity, "memit", 2, values_of(parity, "L123.n1.w100"))
    editor: MemitEditor = run.editor
    both = editor.edit(run.model, run.requests)
    for request, alone in zip(run.requests, both, strict=True):
        joint = editor.edit_jointly(run.model, [request])
        for name, change in joint.changes.items():
            assert difference(change.dense(), alone.changes[name].dense()) < 1e-5
