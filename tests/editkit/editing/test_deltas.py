from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editkit import DeltaError, Dense, EditRequest, LowRank, Rows, WeightDelta, applied
from editkit.editing.delta_files import load_delta, save_delta
from editkit.editing.deltas import stack
from tests.tiny import tiny

REQUEST = EditRequest("{} is in", "Rome", "Seattle", "Italy", "P17")


def delta_for(model, seed: int = 0, *, kinds: str = "lrd") -> WeightDelta:
    """Changes of several kinds at several layers, input-major."""
    g = torch.Generator().manual_seed(seed)
    stored = model.hf.get_parameter(f"{model.path(0, 'mlp_out')}.weight")
    h = model.hidden_size
    d = stored.numel() // h
    changes = {}
    if "l" in kinds:
        changes[f"{model.path(1, 'mlp_out')}.weight"] = LowRank(
            torch.randn(d, 2, generator=g) / 8, torch.randn(2, h, generator=g) / 8
        )
    if "r" in kinds:
        changes[f"{model.path(2, 'mlp_out')}.weight"] = Rows(
            torch.tensor([3, 1]), torch.randn(2, h, generator=g) / 4, d
        )
    if "d" in kinds:
        changes[f"{model.path(0, 'mlp_out')}.weight"] = Dense(torch.randn(d, h, generator=g) / 16)
        if getattr(model.module(model.path(0, "mlp_out")), "bias", None) is not None:
            changes[f"{model.path(0, 'mlp_out')}.bias"] = Dense(torch.randn(h, generator=g) / 8)
    return WeightDelta(
        changes, REQUEST, "test", {"a": 1}, model.fingerprint, {"loss": 0.5, "why": "test"}
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_applied_changes_the_weights_and_restores_them_bit_for_bit(name, dtype) -> None:
    model = tiny(name, dtype=dtype)
    before = model.weights_digest()
    delta = delta_for(model)
    changed = next(iter(delta.changes))
    old = model.hf.get_parameter(changed).detach().clone()
    with applied(model, delta):
        update = delta.changes[changed].dense()
        update = update.T if name == "llama" else update
        expected = (old.float() + update).to(dtype)
        assert torch.equal(model.hf.get_parameter(changed), expected)
        assert model.weights_digest() != before
    assert model.weights_digest() == before


def test_weights_are_restored_after_an_exception_and_when_nested() -> None:
    model = tiny()
    before = model.weights_digest()
    with pytest.raises(ZeroDivisionError), applied(model, delta_for(model, 1)):
        middle = model.weights_digest()
        with applied(model, delta_for(model, 2)):
            pass
        assert model.weights_digest() == middle
        raise ZeroDivisionError
    assert model.weights_digest() == before


def test_tied_weights_stay_tied_and_are_restored() -> None:
    model = tiny()
    assert model.hf.lm_head.weight is model.hf.transformer.wte.weight
    before = model.weights_digest()
    values = torch.ones(400, 32)
    delta = dataclasses.replace(
        delta_for(model, kinds=""),
        changes={"transformer.wte.weight": Dense(values), "lm_head.weight": Dense(values.T)},
    )
    with applied(model, delta):
        assert model.hf.lm_head.weight is model.hf.transformer.wte.weight
    assert model.weights_digest() == before


def test_a_delta_for_another_model_is_refused_unless_forced() -> None:
    model, other = tiny(seed=0), tiny(seed=1)
    with (
        pytest.raises(DeltaError, match=r"was made for the model"),
        applied(other, delta_for(model)),
    ):
        pass
    with applied(other, delta_for(model), force=True):
        pass


def test_errors_name_shapes_and_parameters_that_do_not_fit() -> None:
    model = tiny()
    good = delta_for(model, kinds="d")
    name = "transformer.h.0.mlp.c_proj.weight"
    for changes, message in [
        ({name: Dense(torch.zeros(3, 4))}, r"shape \(3, 4\)"),
        ({"transformer.h.9.x.weight": Dense(torch.zeros(3))}, "no parameter"),
    ]:
        with (
            pytest.raises(DeltaError, match=message),
            applied(model, dataclasses.replace(good, changes=changes)),
        ):
            pass


@pytest.mark.parametrize(
    "make",
    [
        lambda: LowRank(torch.zeros(3, 2), torch.zeros(3, 4)),
        lambda: Rows(torch.tensor([1, 1]), torch.zeros(2, 4), 9),
        lambda: Rows(torch.tensor([9]), torch.zeros(1, 4), 9),
        lambda: Rows(torch.tensor([0, 1]), torch.zeros(1, 4), 9),
    ],
)
def test_changes_that_contradict_themselves_are_refused(make) -> None:
    with pytest.raises(DeltaError):
        make()


def test_is_finite_sees_every_kind() -> None:
    model = tiny()
    assert delta_for(model).is_finite()
    for name, change in delta_for(model).changes.items():
        broken = delta_for(model)
        next(iter(t for t in broken.changes[name].tensors().values() if t.is_floating_point()))[
            0
        ] = float("nan")
        assert not broken.is_finite(), (name, change)


def test_a_saved_delta_loads_unchanged(tmp_path: Path) -> None:
    model = tiny()
    delta = delta_for(model)
    save_delta(delta, tmp_path / "edit.safetensors")
    actual = load_delta(tmp_path / "edit.safetensors")
    assert (
        actual.request,
        actual.editor,
        actual.config,
        actual.notes,
        actual.model_fingerprint,
    ) == (
        delta.request,
        delta.editor,
        delta.config,
        delta.notes,
        delta.model_fingerprint,
    )
    assert actual.changes.keys() == delta.changes.keys()
    for name, change in delta.changes.items():
        assert type(actual.changes[name]) is type(change)
        assert torch.equal(actual.changes[name].dense(), change.dense())
    assert [p.name for p in tmp_path.iterdir()] == ["edit.safetensors"]


@given(position=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_file_is_detected(tmp_path_factory, position: int, bit: int) -> None:
    path = tmp_path_factory.mktemp("delta") / "edit.safetensors"
    save_delta(delta_for(tiny(), kinds="r"), path)
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(DeltaError):
        load_delta(path)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DeltaError, match="does not exist"):
        load_delta(tmp_path / "none")
    (tmp_path / "x").write_bytes(b"hello")
    with pytest.raises(DeltaError, match="damaged, or is not a safetensors"):
        load_delta(tmp_path / "x")


def test_stack_sums_and_keeps_low_rank_low() -> None:
    model = tiny()
    first, second = delta_for(model, 1), delta_for(model, 2)
    both = stack([first, second])
    for name, change in both.changes.items():
        expected = first.changes[name].dense() + second.changes[name].dense()
        torch.testing.assert_close(change.dense(), expected)
    assert isinstance(both.changes[f"{model.path(1, 'mlp_out')}.weight"], LowRank)
    assert both.requests == (REQUEST, REQUEST)
    with pytest.raises(DeltaError, match="different models"):
        stack([first, dataclasses.replace(second, model_fingerprint="0")])


def test_stacked_rows_stay_rows_and_shared_indices_add_up() -> None:
    model = tiny("gpt2")
    [(name, change)] = delta_for(model, kinds="r").changes.items()
    other = Rows(torch.tensor([1, 7]), torch.ones(2, change.shape[1]), change.shape[0])
    base = delta_for(model, kinds="r")
    both = stack([base, dataclasses.replace(base, changes={name: other})]).changes[name]
    assert isinstance(both, Rows)
    assert both.indices.tolist() == [1, 3, 7]
    assert torch.equal(both.dense(), change.dense() + other.dense())
