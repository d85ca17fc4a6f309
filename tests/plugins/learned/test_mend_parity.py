"""Every array of ``parity/mend``: stand-alone transforms, and whole edits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from editkit import EditRequest
from editkit.editing.gradients import EditGradients, LowerBlocks, edit_gradients
from editkit.models import Completion
from editkit_plugins.learned.mend import GradientTransform
from tests.parity import Parity, difference

STEM = ".weight"


def fill_transform(transform: GradientTransform, arrays: dict[str, Tensor], prefix: str) -> None:
    """Copy a published transform's weights."""
    with torch.no_grad():
        for n, network in enumerate(transform.networks):
            name = "mlp" if len(transform.networks) == 1 else f"mlp{n + 1}"
            for i, layer in enumerate(network):
                base = f"{prefix}.{name}.layers.{i}."
                layer.u.copy_(arrays[base + "u"])
                layer.v.copy_(arrays[base + "v"])
                layer.bias.copy_(arrays[base + "bias"])
                if base + "mode_scale.weight" in arrays:
                    layer.scale.copy_(arrays[base + "mode_scale.weight"])
                    layer.shift.copy_(arrays[base + "mode_shift.weight"])


def fill_buffers(transform: GradientTransform, arrays: dict[str, Tensor], prefix: str) -> None:
    for letter, normaliser in (("u", transform.inputs), ("v", transform.gradients)):
        normaliser.count.copy_(arrays[f"{prefix}.k"][0])
        normaliser.mean.copy_(arrays[f"{prefix}.{letter}_mean"])
        normaliser.squares.copy_(arrays[f"{prefix}.{letter}_s"])


def check_buffers(transform: GradientTransform, arrays: dict[str, Tensor], prefix: str) -> None:
    for letter, normaliser in (("u", transform.inputs), ("v", transform.gradients)):
        assert float(normaliser.count) == float(arrays[f"{prefix}.k"])
        assert difference(normaliser.mean, arrays[f"{prefix}.{letter}_mean"]) < 1e-5
        assert difference(normaliser.squares, arrays[f"{prefix}.{letter}_s"]) < 1e-5


def kept(x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    both = EditGradients({"": x}, {"": d}, torch.zeros(len(x), dtype=torch.long), torch.zeros(1))
    rows_x, rows_d, _ = both.factors("")
    return rows_x, rows_d


@pytest.mark.parametrize("name", ["transformA", "transformB", "transformC", "transformD"])
def test_transforms(parity: Parity, name: str) -> None:
    settings, arrays = parity.json("mend/mend.json")[name], parity.arrays("mend")
    transform = GradientTransform(
        settings["x_dim"],
        settings["delta_dim"],
        settings["n_modes"] or 1,
        rank=settings["rank"],
        layers=settings["n_hidden"] + 1,
        together=settings["combine"],
        normalise=settings["norm"],
    )
    fill_transform(transform, arrays, f"{name}.param")
    mode = settings["mode_in_calls_1_and_2"] or 0
    for call in ("call1", "call2"):
        x, d = kept(arrays[f"{name}.{call}.x"], arrays[f"{name}.{call}.delta"])
        assert len(x) == settings[f"rows_kept_{call}"]
        if settings["norm"]:
            transform.update_statistics(x, d)
            check_buffers(transform, arrays, f"{name}.buffers_after_{call}")
        out_x, out_d = transform(x, d, mode)
        assert difference(out_x, arrays[f"{name}.{call}.out_x"]) < 1e-5
        assert difference(out_d, arrays[f"{name}.{call}.out_delta"]) < 1e-5
    out_x, out_d = transform(x, d, 0)
    assert difference(out_x, arrays[f"{name}.call3_eval_mode0.out_x"]) < 1e-5
    assert difference(out_d, arrays[f"{name}.call3_eval_mode0.out_delta"]) < 1e-5


def published_editor(parity: Parity) -> tuple[dict[str, Any], dict[str, GradientTransform]]:
    """The whole editor of the fixture: settings, and the transform of each shape."""
    settings, arrays = parity.json("mend/mend.json"), parity.arrays("mend")
    transforms = {}
    for key, names in settings["shape_dict"].items():
        n_in, n_out = (int(n) for n in key.strip("()").split(","))
        layers = settings["editor_n_hidden"] + 1
        transform = GradientTransform(
            n_in, n_out, len(names), rank=settings["editor_rank"], layers=layers
        )
        fill_transform(transform, arrays, f"editor.param.{key}")
        fill_buffers(transform, arrays, f"editor.buffer.{key}")
        transforms[key] = transform
    return settings, transforms


def completions(parity: Parity, requests: list[dict[str, Any]]) -> list[Completion]:
    made = [EditRequest(r["prompt"], r["subject"], r["target_new"]["str"]) for r in requests]
    return parity.model.complete([r.sentence for r in made], [r.target_new for r in made])


def test_whole_edits(parity: Parity) -> None:
    settings, transforms = published_editor(parity)
    arrays, names = parity.arrays("mend"), settings["inner_params_order"]
    paths = [name.removesuffix(STEM) for name in names]
    for edit in settings["edits"]:
        result = edit_gradients(
            LowerBlocks(parity.model, 2), [completions(parity, edit["requests"])], paths
        )
        assert float(result.losses) == pytest.approx(edit["loss_before"], rel=1e-5)
        for path, name in zip(paths, names, strict=True):
            matrix = edit["matrices"][name]
            x, d, _ = result.factors(path)
            published_x = arrays[f"edit_{edit['name']}.x.{name}"]
            published_d = arrays[f"edit_{edit['name']}.delta.{name}"]
            expected_x, expected_d = kept(published_x, published_d)
            assert difference(x, expected_x) < 1e-5
            assert difference(d, expected_d) < 1e-4
            true_gradient = x.T @ d
            assert float(true_gradient.norm()) == pytest.approx(
                matrix["norm_true_gradient"], rel=1e-4
            )
            with torch.no_grad():
                out_x, out_d = transforms[matrix["transform_key"]](x, d, matrix["mode_index"])
            if edit["name"] == "one":
                assert difference(out_x, arrays[f"edit_one.out_x.{name}"]) < 1e-4
                assert difference(out_d, arrays[f"edit_one.out_delta.{name}"]) < 1e-4
            pseudo = out_x.T @ out_d
            assert float(pseudo.norm()) == pytest.approx(matrix["norm_pseudo_gradient"], rel=1e-4)
            update = matrix["edit_lr"] * pseudo
            assert float(update.norm()) == pytest.approx(matrix["norm_update"], rel=1e-4)
            key = f"edit_{edit['name']}.update.{name}"
            if key in arrays:
                assert difference(update, arrays[key]) < 1e-4


def test_the_normaliser_left_in_training_mode(parity: Parity) -> None:
    """The released editor shifts its statistics with every edit; ours only when it is trained."""
    settings, transforms = published_editor(parity)
    names = settings["inner_params_order"]
    paths = [name.removesuffix(STEM) for name in names]
    request = settings["train_mode_edit"]["request"]
    result = edit_gradients(LowerBlocks(parity.model, 2), [completions(parity, [request])], paths)
    for key, members in settings["shape_dict"].items():
        for name in (each for each in names if each in members):
            x, d, _ = result.factors(name.removesuffix(STEM))
            transforms[key].update_statistics(x, d)
            with torch.no_grad():
                out_x, out_d = transforms[key](x, d, members.index(name))
            assert float((out_x.T @ out_d).norm()) == pytest.approx(
                settings["train_mode_edit"]["norm_pseudo_gradient"][name], rel=1e-4
            )
        check_buffers(transforms[key], parity.arrays("mend"), f"train_mode_edit.buffer_after.{key}")
