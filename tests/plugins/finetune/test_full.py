"""Full fine-tuning: the linear modules of all blocks, trained on many facts."""

from __future__ import annotations

import pytest
import torch

from editkit import Dense, ModelError, applied
from editkit.editing.deltas import notes_of_facts
from editkit.editing.outcomes import unwatched
from editkit_plugins.finetune.config import FullFineTuneConfig
from editkit_plugins.finetune.full import FullFineTuneEditor
from tests.plugins.finetune.test_finetune import loss_of
from tests.plugins.rome.test_rome import REQUESTS
from tests.tiny import tiny


def editor(**values) -> FullFineTuneEditor:
    return FullFineTuneEditor(
        FullFineTuneConfig(**{"lr": 1e-3, "steps": 4, "stop_loss": 0, **values})
    )


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_its_losses_are_those_of_really_edited_models(name: str) -> None:
    model = tiny(name)
    before = model.weights_digest()
    with unwatched():
        delta = editor(batch=3).edit_jointly(model, REQUESTS)
    assert model.weights_digest() == before
    assert all(isinstance(change, Dense) for change in delta.changes.values())
    layers = {int(part) for name in delta.changes for part in name.split(".") if part.isdigit()}
    assert layers == set(range(model.n_layers))
    assert not any("norm" in name or "ln_" in name for name in delta.changes)
    for request, notes in zip(REQUESTS, notes_of_facts(delta), strict=True):
        unedited = loss_of(model, request, "teacher_forced")
        with applied(model, delta):
            now = loss_of(model, request, "teacher_forced")
        assert notes["loss"] == pytest.approx(now, rel=1e-3)
        assert now < unedited


def test_it_trains_as_an_optimiser_on_the_model_itself_does() -> None:
    model, trained = tiny(), tiny()
    with unwatched():
        delta = editor(steps=3).edit_jointly(model, REQUESTS[2:])
    parameters = {name: trained.hf.get_parameter(name) for name in delta.changes}
    optimiser = torch.optim.Adam(parameters.values(), lr=1e-3)
    facts = model.requested(REQUESTS[2:])
    for _ in range(3):
        total = torch.zeros(())
        for each in (fact.completion for fact in facts):
            ids = torch.tensor([each.prompt + each.target])
            log_p = torch.log_softmax(trained.hf(input_ids=ids).logits[0], dim=-1)
            at = torch.arange(len(each.target)) + len(each.prompt) - 1
            total = total - log_p[at, torch.tensor(each.target)].mean() / len(facts)
        gradients = torch.autograd.grad(total, list(parameters.values()))
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
    for name, change in delta.changes.items():
        own = change.dense()
        expected = parameters[name].detach() - model.hf.get_parameter(name).detach()
        # An entry whose gradient is rounding noise moves by whole steps of Adam.
        apart = (own - expected).abs() > 2e-4
        assert float(apart.float().mean()) < (0.5 if name.endswith("attn.bias") else 0.01), name


def test_a_step_of_a_sequence_is_trained_on_top_of_the_earlier_ones() -> None:
    model = tiny()
    with unwatched():
        first, state = editor().step(model, REQUESTS[:2], {})
        with applied(model, first):
            second, state = editor().step(model, REQUESTS[2:], state)
        [alone] = editor().edit(model, REQUESTS[:1])
    assert state == {}
    assert second.made_on == (model.fingerprint, first.digest())
    assert alone.digest() == editor().edit_jointly(model, REQUESTS[:1]).digest()
    with applied(model, [first, second]):
        for request in REQUESTS[2:]:
            assert loss_of(model, request, "teacher_forced") < 6


def test_models_with_experts_are_refused() -> None:
    with pytest.raises(ModelError, match="mixture of experts"):
        editor().check(tiny("mixtral"))
