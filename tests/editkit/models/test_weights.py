"""The identity of a model: with edits, after changes in memory, in any order of edits."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import gc
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit import DeltaError, Dense, EditRequest, LowRank, ModelError, Rows, WeightDelta, applied
from editkit.editing.delta_files import load_delta, save_delta
from editkit.editing.deltas import check_fits, stack
from editkit.editing.edited_models import CandidateQuery, EditedModels
from editkit.models import LanguageModel
from editkit.models.checksums import checksum
from tests.tiny import tiny

KINDS = ("low", "rows", "dense", "both")


def edit(model: LanguageModel, seed: int, kind: str = "both", layer: int = 1) -> WeightDelta:
    """A change of one or two matrices, which all edits here have in common."""
    g = torch.Generator().manual_seed(seed)
    d, h = model.hf.config.n_inner or 4 * model.hidden_size, model.hidden_size
    names = [f"{model.path(i, 'mlp_out')}.weight" for i in (layer, layer + 1)]
    low = LowRank(torch.randn(d, 1, generator=g) / 8, torch.randn(1, h, generator=g) / 8)
    indices = torch.randperm(d, generator=g)[:3]
    rows = Rows(indices, torch.randn(3, h, generator=g) / 8, d)
    dense = Dense(torch.randn(d, h, generator=g) / 16)
    changes = {
        "low": {names[0]: low},
        "rows": {names[0]: rows},
        "dense": {names[0]: dense},
        "both": {names[0]: low, names[1]: rows},
    }[kind]
    request = EditRequest("{} is in", "Rome", "Seattle")
    return WeightDelta(changes, request, "test", {}, model.fingerprint)


def in_place(model: LanguageModel) -> None:
    with torch.no_grad():
        model.hf.get_parameter("transformer.h.0.mlp.c_fc.weight")[3, 5] += 1e-3


def through_data(model: LanguageModel) -> None:
    model.hf.get_parameter("transformer.h.0.mlp.c_fc.weight").data[3, 5] += 1e-3


def swapped_through_data(model: LanguageModel) -> None:
    row = model.hf.get_parameter("transformer.h.0.mlp.c_fc.weight").data[3]
    row[[0, 2]] = row[[2, 0]]


def replaced(model: LanguageModel) -> None:
    module = model.module("transformer.h.0.mlp.c_fc")
    module.weight = torch.nn.Parameter(2 * module.weight.detach())


def buffer(model: LanguageModel) -> None:
    model.module("transformer.h.0").register_buffer("shift", torch.ones(3))


def adapter(model: LanguageModel) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["c_fc"], init_lora_weights=False, r=2)
    peft.get_peft_model(model.hf, config)


def merged_adapter(model: LanguageModel) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["c_fc"], init_lora_weights=False, r=2)
    torch.manual_seed(0)
    model.hf = peft.get_peft_model(model.hf, config).merge_and_unload()


CHANGES = [in_place, through_data, swapped_through_data, replaced, buffer, adapter, merged_adapter]


@pytest.mark.filterwarnings("ignore")  # of peft
@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_another_model(
    change: Callable[[LanguageModel], None], caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny()
    before, delta = model.fingerprint, edit(model, 0, layer=2)
    change(model)
    changed = model.fingerprint
    assert changed != before
    assert model.fingerprint == changed == model.base_fingerprint
    assert [r.message.count("changed in memory") for r in caplog.records] == [1]
    with pytest.raises(DeltaError, match="made for the model"), applied(model, delta):
        pass
    with pytest.raises(DeltaError, match="made for the model"):
        EditedModels(model, [delta])


def epsilon(model: LanguageModel) -> None:
    model.module("transformer.h.0.ln_1").eps = 0.5


def activation(model: LanguageModel) -> None:
    model.module("transformer.h.0.mlp").act = torch.nn.ReLU()


def scale(model: LanguageModel) -> None:
    model.hf.config.scale_attn_weights = False


def template(model: LanguageModel) -> None:
    model.tokenizer.chat_template = "{{ messages[0].content }}"


def token(model: LanguageModel) -> None:
    model.tokenizer.add_tokens(["<new>"])


@pytest.mark.parametrize("change", [epsilon, activation, scale, template, token])
@pytest.mark.parametrize("loaded", [True, False])
def test_a_changed_module_config_or_tokenizer_is_another_model(
    change: Callable[[LanguageModel], None], loaded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny()
    if loaded:
        model = LanguageModel(model.hf, model.tokenizer, name="loaded", fingerprint="f" * 32)
    before, delta = model.fingerprint, edit(model, 0, layer=2)
    with applied(model, delta):
        edited = model.fingerprint
    change(model)
    assert model.fingerprint != before
    assert [r.message.startswith("settings of") for r in caplog.records] == [True]
    with pytest.raises(DeltaError, match="made for the model"), applied(model, delta):
        pass
    again = LanguageModel(model.hf, model.tokenizer, name="again")
    assert again.fingerprint == model.fingerprint != edited


def test_a_chat_uses_the_current_template() -> None:
    model = tiny()
    for begin in ("Q: ", "User: "):
        model.tokenizer.chat_template = (
            begin + "{{ messages[0].content }}{% if add_generation_prompt %} A:{% endif %}"
        )
        assert model.rendered("Who?", chat=True).text == f"{begin}Who? A:"


def test_pickling_a_model_is_refused_with_a_hint() -> None:
    model = tiny()
    with pytest.raises(ModelError, match=r"cannot be pickled.*save_pretrained"):
        pickle.dumps(model)
    other = copy.copy(model)
    with applied(model, edit(model, 0, layer=2)):
        assert other.fingerprint == model.fingerprint
    assert other.fingerprint == model.fingerprint


def test_restored_weights_are_the_original_model() -> None:
    model = tiny()
    before = model.fingerprint
    weight = model.hf.get_parameter("transformer.h.0.mlp.c_fc.weight")
    original = weight.detach().clone()
    weight.data.mul_(2)
    assert model.fingerprint != before
    weight.data.copy_(original)
    assert model.fingerprint == before


@pytest.mark.filterwarnings("ignore")  # of peft
def test_a_disabled_adapter_is_another_model() -> None:
    peft = pytest.importorskip("peft")
    model = tiny()
    config = peft.LoraConfig(
        target_modules=["c_fc"], init_lora_weights=False, r=2, fan_in_fan_out=True
    )
    wrapped = peft.get_peft_model(model.hf, config)
    on = model.fingerprint
    with wrapped.disable_adapter():
        assert model.fingerprint != on
    assert model.fingerprint == on


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (257, 3), (300, 700)])
def test_a_checksum_depends_on_every_entry_and_its_place(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    g = torch.Generator().manual_seed(0)
    tensor = torch.randint(0, 200, shape, generator=g).to(dtype)
    before = checksum(tensor)
    assert checksum(tensor.clone()) == before == checksum(torch.stack([tensor] * 2, dim=-1)[..., 0])
    flat = tensor.reshape(-1)
    for place in {0, len(flat) // 2, len(flat) - 1}:
        old = flat[place].item()
        flat[place] = old + 8
        assert checksum(tensor) != before
        flat[place] = old
    for first, second in ((0, len(flat) - 1), (0, 1), (0, len(flat) // 2)):
        if second < len(flat) and flat[first] != flat[second]:
            flat[[first, second]] = flat[[second, first]]
            assert checksum(tensor) != before
            flat[[first, second]] = flat[[second, first]]
    assert checksum(tensor) == before != checksum(tensor.reshape(1, *shape))


# ---------------------------------------------------------------- edits on top of edits


def test_an_edit_on_top_of_others_records_them_and_does_not_fit_the_bare_model(
    tmp_path: Path,
) -> None:
    model = tiny()
    base = model.fingerprint
    first, second = edit(model, 1), edit(model, 2)
    with applied(model, first), applied(model, second):
        third = edit(model, 3)
    assert third.model_fingerprint != base
    assert third.made_on == (base, first.digest(), second.digest())
    save_delta(third, tmp_path / "third.safetensors")
    for each in (third, load_delta(tmp_path / "third.safetensors")):
        assert each.made_on == third.made_on
        with (
            pytest.raises(DeltaError, match=r"made on .* with 2 other edits applied") as caught,
            applied(model, each),
        ):
            pass
        assert caught.value.hint
        assert "applied(model, [FIRST, ..., THIS])" in caught.value.hint
        for wrong in ([first, each], [second, first, each]):
            with pytest.raises(DeltaError), applied(model, wrong):
                pass
        with pytest.raises(DeltaError):
            EditedModels(model, [each])
        with applied(model, each, force=True):
            pass
        with applied(model, [first, second, each]):
            together = model.weights_digest()
        with applied(model, first), applied(model, second), applied(model, each):
            assert model.weights_digest() == together
        with applied(model, first), applied(model, second):
            check_fits(model, each)
            EditedModels(model, [each])
        with applied(model, stack([first, second, each])):
            assert model.weights_digest() == together
        with pytest.raises(DeltaError):
            stack([first, each])
    assert model.fingerprint == base


def test_identities_follow_the_edits_and_their_order() -> None:
    model = tiny()
    base = model.fingerprint
    first, second = edit(model, 1), edit(model, 2)
    seen = [base]
    with applied(model, first):
        seen.append(model.fingerprint)
        with applied(model, second):
            seen.append(model.fingerprint)
            assert model.base_fingerprint == base
        assert model.fingerprint == seen[1]
    with applied(model, [second, first]):
        seen.append(model.fingerprint)
    with applied(model, dataclasses.replace(first, notes={"other": 1})):
        assert model.fingerprint == seen[1]
    with applied(model, dataclasses.replace(first, changes={})):
        assert model.fingerprint == base
    assert len(set(seen)) == 4
    assert model.fingerprint == base


def test_a_change_inside_applied_is_detected_and_undone() -> None:
    model = tiny()
    base, delta = model.fingerprint, edit(model, 1)
    name = next(iter(delta.changes))
    with applied(model, delta):
        edited = model.fingerprint
        model.hf.get_parameter(name).data[0] += 1
        assert model.fingerprint not in (base, edited)
        with pytest.raises(DeltaError, match="was made for"), applied(model, delta):
            pass
        with (
            pytest.raises(DeltaError, match="changed inside"),
            applied(model, delta, force=True),
        ):
            pass
    assert model.fingerprint == base


def test_scores_of_other_weights_are_not_reused() -> None:
    model = tiny()
    models = EditedModels(model, [dataclasses.replace(edit(model, 0), changes={})])
    query = CandidateQuery(0, "Rome is in", ("Italy", "France"))
    bare = models.candidate_nll([query])
    with applied(model, edit(model, 1)):
        edited = models.candidate_nll([query])
        on_top = EditedModels(model, [edit(model, 2)])
        on_top.candidate_nll([query])
    assert edited != bare == models.candidate_nll([query])
    with pytest.raises(DeltaError, match="made on"):
        on_top.candidate_nll([query])


# ---------------------------------------------------------------- any order, any end


@functools.cache
def pair(dtype: torch.dtype) -> tuple[LanguageModel, LanguageModel, tuple[WeightDelta, ...]]:
    """A model to be edited, another one to compare with, and edits of them."""
    model = tiny(dtype=dtype)
    return model, tiny(dtype=dtype), tuple(edit(model, n, kind) for n, kind in enumerate(KINDS))


@settings(max_examples=15, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_edits_may_begin_and_end_in_any_order(data: st.DataObject, dtype: torch.dtype) -> None:
    model, other, pool = pair(dtype)
    base, bits = model.fingerprint, model.weights.checksums()
    running: list[tuple[WeightDelta, contextlib.AbstractContextManager[LanguageModel]]] = []
    try:
        for _ in range(data.draw(st.integers(1, 8))):
            if running and data.draw(st.booleans()):
                _, block = running.pop(data.draw(st.integers(0, len(running) - 1)))
                block.__exit__(None, None, None)
            else:
                delta = data.draw(st.sampled_from(pool))  # the same one may come twice
                block = applied(model, delta)
                block.__enter__()
                running.append((delta, block))
            now, name = model.weights.checksums(), model.fingerprint
            with model.unedited():
                assert (model.weights.checksums(), model.fingerprint) == (bits, base)
            assert (model.weights.checksums(), model.fingerprint) == (now, name)
            if running:
                with applied(other, stack([delta for delta, _ in running])):
                    assert other.weights.checksums() == now
                with applied(other, [delta for delta, _ in running]):
                    assert (other.weights.checksums(), other.fingerprint) == (now, name)
            else:
                assert (now, name) == (bits, base)
    finally:
        while running:
            running.pop(0)[1].__exit__(None, None, None)
    assert (model.weights.checksums(), model.fingerprint) == (bits, base)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_several_deltas_are_rounded_once(dtype: torch.dtype) -> None:
    model = tiny(dtype=dtype)
    deltas = [edit(model, seed, "dense") for seed in range(5)]
    [name] = deltas[0].changes
    weight = model.hf.get_parameter(name)
    exact = weight.detach().double() + sum(d.changes[name].dense().double() for d in deltas)
    with applied(model, deltas):
        once = weight.detach().clone()
    with applied(model, stack(deltas)):
        assert torch.equal(weight, once)
    step = torch.finfo(dtype).eps / 2
    assert bool(((once.double() - exact).abs() <= step * exact.abs() * 1.001 + 1e-7).all())


def test_tied_weights_take_the_edits_of_both_names() -> None:
    model = tiny()
    before = model.weights_digest()
    g = torch.Generator().manual_seed(0)
    one, two = (torch.randn(model.hf.config.vocab_size, 32, generator=g) for _ in range(2))
    plain = edit(model, 0)
    a = dataclasses.replace(plain, changes={"transformer.wte.weight": Dense(one)})
    b = dataclasses.replace(plain, changes={"lm_head.weight": Dense(two.T)})
    wte = model.hf.get_parameter("transformer.wte.weight")
    expected = wte.detach() + (one + two)
    first, second = applied(model, a), applied(model, b)
    first.__enter__()
    second.__enter__()
    torch.testing.assert_close(wte.detach(), expected)
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert model.weights_digest() == before


def test_an_abandoned_block_ends_when_it_is_garbage_collected() -> None:
    model = tiny()
    before = model.weights_digest()

    def stream():
        with applied(model, edit(model, 0)):
            yield 1
            yield 2

    block, items = applied(model, edit(model, 1)), stream()
    block.__enter__()
    next(items)
    assert model.weights_digest() != before
    del block, items
    gc.collect()
    assert model.weights_digest() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("when", range(6))
def test_an_interruption_at_any_moment_leaves_the_model_unchanged(
    error: type[BaseException], when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    before, base = model.weights_digest(), model.fingerprint
    first, second = edit(model, 0), edit(model, 1)
    real, count = torch.Tensor.copy_, 0

    def copy(self, *args, **kwargs):
        nonlocal count
        count += 1
        if count == when + 1:
            raise error
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "copy_", copy)
        with contextlib.suppress(error), applied(model, first), applied(model, second):
            pass
        assert count > when
    assert (model.weights_digest(), model.fingerprint) == (before, base)


def test_a_model_belongs_to_one_thread_while_it_is_edited() -> None:
    model = tiny()
    before, delta = model.weights_digest(), edit(model, 0)
    with applied(model, delta):
        edited, raised = model.weights_digest(), []

        def other() -> None:
            try:
                with applied(model, delta):
                    pass
            except DeltaError as error:
                raised.append(error.message)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(raised) == 1
        assert "another thread" in raised[0]
        assert model.weights_digest() == edited
    assert model.weights_digest() == before


def test_a_network_is_edited_through_one_object_at_a_time() -> None:
    model = tiny()
    before, delta = model.weights_digest(), edit(model, 0)
    other = LanguageModel(model.hf, model.tokenizer, name="other", fingerprint=model.fingerprint)
    with (
        applied(model, delta),
        pytest.raises(DeltaError, match="through another LanguageModel"),
        applied(other, delta, force=True),
    ):
        pass
    with applied(other, delta):
        assert model.fingerprint != other.base_fingerprint
    assert model.weights_digest() == before


def test_a_copy_is_independent() -> None:
    model = tiny()
    base, delta = model.fingerprint, edit(model, 0)
    twin = copy.deepcopy(model)
    assert twin.fingerprint == base
    with applied(model, delta):
        assert twin.fingerprint == base
        edited = copy.deepcopy(model)
        assert edited.fingerprint not in (base, model.fingerprint)
    with applied(twin, delta):
        assert model.fingerprint == base
        assert twin.weights_digest() == edited.weights_digest()


def test_racing_threads_leave_the_model_unchanged() -> None:
    model = tiny()
    before, base = model.weights_digest(), model.fingerprint
    deltas = [edit(model, seed) for seed in range(4)]
    refused, entered = [], []
    start = threading.Barrier(4)

    def work(delta: WeightDelta) -> None:
        start.wait()
        for _ in range(15):
            try:
                with applied(model, delta):
                    entered.append(1)
            except DeltaError:
                refused.append(1)

    threads = [threading.Thread(target=work, args=(delta,)) for delta in deltas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) + len(entered) == 60
    assert entered
    assert (model.weights_digest(), model.fingerprint) == (before, base)


# ---------------------------------------------------------------- weights that are not numbers


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    model = tiny()
    weight = model.hf.get_parameter("transformer.h.1.mlp.c_proj.weight")
    weight.data[0, 0] = bad
    message = r"1 of \d+ weights of .* hold NaN or infinity \(transformer.h.1.mlp.c_proj.weight"
    with pytest.raises(ModelError, match=message):
        _ = model.fingerprint
    with pytest.raises(ModelError, match=r"weights of 'x' hold NaN or infinity"):
        LanguageModel(model.hf, model.tokenizer, name="x")
