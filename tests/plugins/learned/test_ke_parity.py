"""Every array of ``parity/ke``."""

from __future__ import annotations

import pytest
import torch

from editkit.editing.gradients import LowerBlocks, edit_gradients
from editkit.models import Completion
from editkit_plugins.learned.ke import GradientMix, KeHypernetwork
from editkit_plugins.learned.networks import MatrixChanges
from tests.parity import Parity, difference

STEM = ".weight"


def published_network(parity: Parity) -> KeHypernetwork:
    settings, arrays = parity.json("ke/ke.json"), parity.arrays("ke")
    shapes = {
        name: tuple(parity.model.hf.get_parameter(name).shape)
        for name in settings["params_in_order"]
    }
    network = KeHypernetwork(
        parity.model.hf.get_input_embeddings().weight,
        shapes,
        hidden=settings["lstm_hidden"],
        condition=settings["condition_dim"],
        max_scale=settings["max_scale"],
    )
    with torch.no_grad():
        for name, weight in network.condition.lstm.named_parameters():
            weight.copy_(arrays[f"param.condition.lstm._module.{name}"])
        for name, weight in network.condition.linear.named_parameters():
            weight.copy_(arrays[f"param.condition.linear._linear_layers.0.{name}"])
        for name in shapes:
            shaper = network.shapers[name.replace(".", "_")]
            base = f"param.conditioners.{name.replace('.', '_')}_conditioner.conditioners"
            for place, linear in ((0, shaper.first), (2, shaper.second)):
                linear.v.copy_(arrays[f"{base}.{place}.weight_v"])
                linear.g.copy_(arrays[f"{base}.{place}.weight_g"])
                linear.bias.copy_(arrays[f"{base}.{place}.bias"])
    return network


def test_every_published_case(parity: Parity) -> None:
    settings, arrays = parity.json("ke/ke.json"), parity.arrays("ke")
    network = published_network(parity)
    names = settings["params_in_order"]
    paths = [name.removesuffix(STEM) for name in names]
    for case in settings["cases"]:
        ids, labels = case["input_ids"][0], case["labels"][0]
        n_prompt = next(i for i, label in enumerate(labels) if label != -100)
        fact = Completion(tuple(ids[:n_prompt]), tuple(ids[n_prompt:]))
        gradients = edit_gradients(LowerBlocks(parity.model, 4), [[fact]], paths)
        assert float(gradients.losses) == pytest.approx(case["loss_before"], rel=1e-5)
        text = [
            token
            for token, real in zip(case["condition_ids"][0], case["condition_mask"][0], strict=True)
            if real
        ]
        key = f"case{case['index']}"
        with torch.no_grad():
            condition = network.condition([text])
            mixes = network([text])
            rows = {n: gradients.factors(p) for n, p in zip(names, paths, strict=True)}
            changes = {
                n: MatrixChanges.from_factors(*mixes[n].factors(*rows[n]), n_edits=1).low_rank(0)
                for n in names
            }
        assert difference(condition, arrays[f"{key}.condition_vector"]) < 1e-5
        for name in names:
            update = changes[name].dense()
            x, d, _ = rows[name]
            assert changes[name].left.shape[1] == len(x) + 1
            assert float(update.norm()) == pytest.approx(case["norm_update"][name], rel=1e-4)
            if case["index"] == 0:
                assert difference(x.T @ d, arrays[f"{key}.grad.{name}"]) < 1e-4
                assert difference(update, arrays[f"{key}.update.{name}"]) < 1e-4
            else:
                row_sums, columns = update.sum(dim=1), update.sum(dim=0)
                assert difference(row_sums, arrays[f"{key}.update_row_sums.{name}"]) < 1e-4
                assert difference(columns, arrays[f"{key}.update_col_sums.{name}"]) < 1e-4


def test_low_rank_factors_give_the_published_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    n_in, n_out, owner = 5, 3, torch.tensor([0, 0, 2])

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x, d = random(3, n_in), random(3, n_out)
    mix = GradientMix(
        random(3, n_in), random(3, n_out), random(3, n_in), random(3, n_out), random(3, 1)
    )
    changes = MatrixChanges.from_factors(*mix.factors(x, d, owner), n_edits=3)
    for edit in range(3):
        gradient = x[owner == edit].T @ d[owner == edit]
        a, b = (
            torch.outer(r[edit], c[edit])
            for r, c in ((mix.row_a, mix.col_a), (mix.row_b, mix.col_b))
        )
        expected = mix.scale[edit] * (gradient * a + b)
        assert difference(changes.low_rank(edit).dense(), expected) < 1e-6


def test_conditions_do_not_depend_on_the_batch(parity: Parity) -> None:
    network = published_network(parity)
    texts = [[5, 9, 2], [7], [1, 2, 3, 4, 5, 6, 7, 8]]
    with torch.no_grad():
        together = network.condition(texts)
        for row, text in zip(together, texts, strict=True):
            assert difference(network.condition([text])[0], row) < 1e-6
