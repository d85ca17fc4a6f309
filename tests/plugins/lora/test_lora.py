from __future__ import annotations

import pytest
import torch

from editkit import LowRank, ModelError, applied
from editkit.editing.deltas import notes_of_facts
from editkit.editing.outcomes import unwatched
from editkit_plugins.lora.config import LoraConfig
from editkit_plugins.lora.editor import LoraEditor
from tests.plugins.finetune.test_finetune import loss_of
from tests.plugins.rome.test_rome import REQUESTS
from tests.tiny import tiny


def editor(**values) -> LoraEditor:
    return LoraEditor(
        LoraConfig(
            **{"layers": (1, 3), "rank": 2, "lr": 2e-2, "steps": 6, "stop_loss": 0, **values}
        )
    )


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_losses_are_those_of_really_edited_models(name: str) -> None:
    model = tiny(name)
    before = model.weights_digest()
    parts = ("qkv", "attention_out", "mlp_in", "mlp_out")
    with unwatched():
        joint = editor(parts=parts).edit_jointly(model, REQUESTS)
        alone = editor(parts=parts).edit(model, REQUESTS)
    assert model.weights_digest() == before
    for request, delta, notes in zip(REQUESTS, alone, notes_of_facts(joint), strict=True):
        unedited = loss_of(model, request, "teacher_forced")
        for edited, noted in ((joint, notes["loss"]), (delta, delta.notes["loss"])):
            assert all(isinstance(change, LowRank) for change in edited.changes.values())
            assert {change.left.shape[1] for change in edited.changes.values()} == {2}
            with applied(model, edited):
                now = loss_of(model, request, "teacher_forced")
            assert noted == pytest.approx(now, rel=1e-3)
            assert now < unedited


def test_a_step_is_adam_on_the_factors() -> None:
    """The first update by definition: A stays, because B is zero; B moves by lr times the sign."""
    model, config = tiny(), {"parts": ("mlp_out",), "layers": (2,), "alpha": 3.0}
    with unwatched():
        delta = editor(**config, steps=1).edit_jointly(model, REQUESTS[:2])
    [(name, change)] = delta.changes.items()
    weight = model.hf.get_parameter(name)
    completions = model.complete(
        [r.sentence for r in REQUESTS[:2]], [r.target_new for r in REQUESTS[:2]]
    )
    total = torch.zeros(())
    for each in completions:
        ids = torch.tensor([each.prompt + each.target])
        log_p = torch.log_softmax(model.hf(input_ids=ids).logits[0], dim=-1)
        at = torch.arange(len(each.target)) + len(each.prompt) - 1
        total = total - log_p[at, torch.tensor(each.target)].mean() / 2
    [gradient] = torch.autograd.grad(total, [weight])  # (in, out), as GPT-2 stores it
    scale = 3.0 / 2
    a = change.left / scale
    expected = -2e-2 * (scale * a.T @ gradient).sign()
    torch.testing.assert_close(change.right, expected, rtol=1e-3, atol=1e-6)


def test_a_joint_edit_of_one_fact_is_its_independent_edit() -> None:
    model = tiny()
    with unwatched():
        joint = editor().edit_jointly(model, REQUESTS[:1])
        alone = editor().edit(model, REQUESTS)[0]
    for name, change in joint.changes.items():
        torch.testing.assert_close(
            change.dense(), alone.changes[name].dense(), rtol=1e-3, atol=1e-6
        )


def test_mini_batches_depend_on_the_seed_only() -> None:
    model = tiny()
    with unwatched():
        first, again, other, whole = (
            editor(**values).edit_jointly(model, REQUESTS)
            for values in ({"batch": 3}, {"batch": 3}, {"batch": 3, "seed": 1}, {})
        )
    assert first.digest() == again.digest()
    assert len({first.digest(), other.digest(), whole.digest()}) == 3


def test_training_stops_at_its_loss() -> None:
    model = tiny()
    delta = editor(stop_loss=100.0).edit_jointly(model, REQUESTS)
    assert delta.notes["steps"] == 1
    assert delta.norm() == 0  # without an update


def test_missing_blocks_are_refused() -> None:
    with pytest.raises(ModelError, match="layer 9 does not exist"):
        editor(layers=(1, 9)).check(tiny())
