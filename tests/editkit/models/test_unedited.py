"""The base model inside ``unedited()``, and the edits after it."""

from __future__ import annotations

import contextlib
import gc
import threading

import pytest
import torch

from editkit import DeltaError, applied
from editkit.models import LanguageModel, weights
from tests.editkit.models.test_weights import edit
from tests.tiny import tiny


def test_edits_inside_are_on_the_base_model_and_the_others_return() -> None:
    model = tiny()
    base, bits = model.fingerprint, model.weights_digest()
    first, second = edit(model, 1), edit(model, 2, layer=2)
    with applied(model, first):
        edited, name = model.weights_digest(), model.fingerprint
        with pytest.raises(ZeroDivisionError), model.unedited() as same:
            assert same is model
            assert (model.weights_digest(), model.fingerprint) == (bits, base)
            assert edit(model, 3).made_on == ()
            with applied(model, second):
                assert edit(model, 3).made_on == (base, second.digest())
                with model.unedited():
                    assert model.weights_digest() == bits
            with model.unedited():
                assert model.weights_digest() == bits
            assert model.weights_digest() == bits
            raise ZeroDivisionError
        assert (model.weights_digest(), model.fingerprint) == (edited, name)
        assert model.base_fingerprint == base
    assert (model.weights_digest(), model.fingerprint) == (bits, base)


def test_an_edit_that_ends_inside_does_not_return() -> None:
    model = tiny()
    bits, base = model.weights_digest(), model.fingerprint
    first, second = applied(model, edit(model, 1)), applied(model, edit(model, 2))
    with second:
        alone = model.weights_digest()
    second = applied(model, edit(model, 2))
    first.__enter__()
    second.__enter__()
    with model.unedited():
        first.__exit__(None, None, None)
        assert model.weights_digest() == bits
    assert model.weights_digest() == alone
    second.__exit__(None, None, None)
    assert (model.weights_digest(), model.fingerprint) == (bits, base)


def test_a_block_that_was_never_left_ends_when_it_is_garbage_collected() -> None:
    model = tiny()
    with applied(model, edit(model, 1)):
        edited = model.weights_digest()
        block = model.unedited()
        block.__enter__()
        assert model.weights_digest() != edited
        del block
        gc.collect()
        assert model.weights_digest() == edited


@pytest.mark.parametrize("when", range(4))
def test_an_interruption_at_any_moment_puts_the_edits_back(
    when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    base, bits = model.fingerprint, model.weights_digest()
    real, count = torch.Tensor.copy_, 0

    def copy(self, *args, **kwargs):
        nonlocal count
        count += 1
        if count == when + 1:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with applied(model, edit(model, 1)):  # two matrices
        edited = model.weights_digest()
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "copy_", copy)
            with contextlib.suppress(KeyboardInterrupt), model.unedited():
                pass
        assert count > when
        assert model.weights_digest() == edited
    assert (model.fingerprint, model.weights_digest()) == (base, bits)


def test_the_edits_of_another_thread_are_not_taken_out() -> None:
    model, raised = tiny(), []

    def other() -> None:
        try:
            with model.unedited():
                pass
        except DeltaError as error:
            raised.append(error.message)

    def in_thread() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    in_thread()
    assert not raised
    with applied(model, edit(model, 1)):
        edited = model.weights_digest()
        in_thread()
        assert len(raised) == 1
        assert "another thread" in raised[0]
        assert model.weights_digest() == edited


def test_other_changes_inside_applied_are_an_error_and_are_not_lost() -> None:
    model, delta = tiny(), edit(tiny(), 1)
    weight = model.hf.get_parameter(next(iter(delta.changes)))
    with applied(model, delta):
        weight.data[0] += 1
        changed = weight.detach().clone()
        with pytest.raises(DeltaError, match=r"changed inside applied"), model.unedited():
            pass
        assert torch.equal(weight, changed)


def test_the_base_fingerprint_reads_no_weights_unless_they_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny()
    base = model.fingerprint
    looks = 0
    real = weights.checksums_of

    def counted(hf):
        nonlocal looks
        looks += 1
        return real(hf)

    monkeypatch.setattr(weights, "checksums_of", counted)
    assert model.base_fingerprint == base
    with applied(model, edit(model, 1)):
        looks = 0
        assert model.base_fingerprint == base
        assert looks == 0
    _changed_in_place(model)
    assert model.base_fingerprint != base
    assert looks > 0


def _changed_in_place(model: LanguageModel) -> None:
    with torch.no_grad():
        model.hf.get_parameter("transformer.h.0.mlp.c_fc.weight")[0, 0] += 1
