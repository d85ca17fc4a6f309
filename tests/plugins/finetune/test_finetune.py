from __future__ import annotations

import pytest
import torch

from editkit import Dense, applied
from editkit.editing.deltas import notes_of_facts
from editkit.editing.outcomes import unwatched
from editkit.models.weight_layout import input_major
from editkit_plugins.finetune.config import (
    AttentionFineTuneConfig,
    ConstrainedFineTuneConfig,
    FineTuneConfig,
)
from editkit_plugins.finetune.editor import FineTuneEditor, Training, bounds_of, verdict
from tests.plugins.rome.test_rome import REQUESTS
from tests.tiny import EACH, tiny


def loss_of(model, request, positions: str) -> float:
    """The loss by definition: one text, the whole model, unpadded."""
    completion = model.complete([request.sentence], [request.target_new])[0]
    ids = list(completion.prompt + completion.target)
    with torch.no_grad():
        log_p = torch.log_softmax(model.hf(input_ids=torch.tensor([ids])).logits.float()[0], -1)
    start = len(completion.prompt) - 1
    step = 1 if positions == "teacher_forced" else 0
    terms = [-float(log_p[start + step * j, t]) for j, t in enumerate(completion.target)]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("positions", ["last_prompt", "teacher_forced"])
@pytest.mark.parametrize("part", ["mlp_out", "qkv"])
def test_losses_are_those_of_really_edited_models(name: str, positions: str, part: str) -> None:
    """The loss before step s + 1 is the loss of the model with the delta of s steps applied."""
    model = tiny(name)
    before = model.weights_digest()
    values = {"layer": 1, "part": part, "target_positions": positions, "stop_loss": 0.0}
    longer = FineTuneEditor(FineTuneConfig(**values, steps=4, lr=1e-3)).train(model, REQUESTS)
    deltas = FineTuneEditor(FineTuneConfig(**values, steps=3, lr=1e-3)).edit(model, REQUESTS)
    assert model.weights_digest() == before
    for request, training, delta in zip(REQUESTS, longer, deltas, strict=True):
        assert training.losses[0] == pytest.approx(loss_of(model, request, positions), rel=1e-4)
        with applied(model, delta):
            edited = loss_of(model, request, positions)
        assert training.losses[3] == pytest.approx(edited, rel=1e-3)
        assert training.losses[3] < training.losses[0]
        assert all(isinstance(change, Dense) for change in delta.changes.values())


def test_every_entry_stays_within_its_bound() -> None:
    model = tiny()
    config = ConstrainedFineTuneConfig(layer=1, lr=1e-2, max_change=2e-3)
    for delta in FineTuneEditor(config).edit(model, REQUESTS):
        largest = max(float(c.dense().abs().max()) for c in delta.changes.values())
        assert largest == pytest.approx(2e-3, rel=1e-4)


def test_training_stops_at_its_loss_without_another_step() -> None:
    model = tiny()
    values = {"layer": 1, "lr": 1e-2, "steps": 12}
    free = FineTuneEditor(FineTuneConfig(**values, stop_loss=0.0)).train(model, REQUESTS)
    lowest = sorted(min(training.losses) for training in free)
    stop = (lowest[1] + lowest[2]) / 2  # two of the four requests get there
    trained = FineTuneEditor(FineTuneConfig(**values, stop_loss=stop)).train(model, REQUESTS)
    for training, unbounded in zip(trained, free, strict=True):
        assert training.losses == pytest.approx(unbounded.losses[: len(training.losses)], rel=1e-3)
        assert all(loss >= stop for loss in training.losses[:-1])
        assert (training.losses[-1] < stop) == (min(unbounded.losses) < stop)
    assert len({len(training.losses) for training in trained}) > 1


def test_the_bias_is_trained_only_if_asked_for() -> None:
    model = tiny()
    for train_bias in (True, False):
        [delta] = FineTuneEditor(FineTuneConfig(train_bias=train_bias)).edit(model, REQUESTS[:1])
        assert ("transformer.h.1.mlp.c_proj.bias" in delta.changes) is train_bias


def test_joint_training_gives_one_delta_for_all() -> None:
    model = tiny()
    delta = FineTuneEditor(FineTuneConfig(lr=1e-2)).edit_jointly(model, REQUESTS)
    assert delta.requests == tuple(REQUESTS)
    before = [loss_of(model, request, "last_prompt") for request in REQUESTS]
    with applied(model, delta):
        after = [loss_of(model, request, "last_prompt") for request in REQUESTS]
    assert sum(after) < sum(before)
    assert [fact["loss"] for fact in delta.notes["facts"]] == pytest.approx(after, rel=1e-3)


def test_joint_training_on_one_fact_is_training_on_it_alone() -> None:
    model, editor = tiny(), FineTuneEditor(FineTuneConfig(lr=1e-2))
    [alone] = editor.edit(model, REQUESTS[:1])
    together = editor.edit_jointly(model, REQUESTS[:1])
    assert together.digest() == alone.digest()
    assert notes_of_facts(together) == [alone.notes]


def test_more_facts_than_a_batch_are_trained_in_mini_batches() -> None:
    model = tiny()

    def trained(**values) -> Training:
        config = ConstrainedFineTuneConfig(
            layer=1, lr=3e-3, max_change=2e-2, stop_loss=0.0, steps=12, **values
        )
        return FineTuneEditor(config).train_jointly(model, REQUESTS)

    small, whole = trained(batch=3), trained(batch=4)
    assert small.losses[0] == pytest.approx(whole.losses[0], rel=0.05)  # before any update
    assert len(small.losses) == len(whole.losses) == 12
    assert small.loss < 0.9 * small.losses[0]
    assert max(float(change.abs().max()) for change in small.change.values()) <= 2e-2 + 1e-6
    assert all(torch.equal(small.change[n], c) for n, c in trained(batch=3).change.items())


def test_nothing_of_the_model_or_the_process_changes() -> None:
    model = tiny()
    state = torch.get_rng_state()
    FineTuneEditor(FineTuneConfig()).edit(model, REQUESTS)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad and p.grad is None for p in model.hf.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_get_float32_deltas(dtype: torch.dtype) -> None:
    model = tiny(dtype=dtype)
    for delta in FineTuneEditor(FineTuneConfig(steps=3)).edit(model, REQUESTS):
        assert delta.is_finite()
        assert all(c.dense().dtype == torch.float32 for c in delta.changes.values())


def test_no_requests_give_no_deltas() -> None:
    assert FineTuneEditor(FineTuneConfig()).edit(tiny(), []) == []


def notes_of(config: FineTuneConfig, requests=REQUESTS) -> list[dict]:
    with unwatched():
        return [dict(delta.notes) for delta in FineTuneEditor(config).edit(tiny(), requests)]


def test_the_loss_in_the_notes_is_that_of_the_edited_model() -> None:
    model = tiny()
    editor = FineTuneEditor(FineTuneConfig(layer=1, lr=1e-2, steps=3, stop_loss=0.0))
    with unwatched():
        deltas = editor.edit(model, REQUESTS)
    for request, delta in zip(REQUESTS, deltas, strict=True):
        with applied(model, delta):
            assert delta.notes["loss"] == pytest.approx(
                loss_of(model, request, "last_prompt"), rel=1e-3
            )


def test_a_loss_that_is_summed_over_tokens_is_judged_by_the_token() -> None:
    summed = FineTuneConfig(target_loss="sum")
    training = Training(change={}, losses=(), facts=(1.2,), tokens=(2,))
    assert verdict(1.2, 2, training, summed) == {"loss": 1.2, "converged": True}
    assert verdict(1.2, 1, training, summed)["converged"] is False
    assert verdict(1.2, 2, training, FineTuneConfig())["converged"] is False


def test_the_advice_names_what_prevents_convergence() -> None:
    slow = notes_of(FineTuneConfig(layer=1, lr=1e-6, target_positions="teacher_forced"))
    assert {note["converged"] for note in slow} == {False}
    assert slow[0]["advice"] == "raise steps (25) or lr (1e-06), or train another layer than 1"
    boxed = notes_of(ConstrainedFineTuneConfig(layer=1, lr=1e-2, target_positions="teacher_forced"))
    assert {note["converged"] for note in boxed} == {False}
    assert "raise max_change (0.0005)" in boxed[0]["advice"]
    done = notes_of(FineTuneConfig(layer=1, stop_loss=20.0, target_positions="teacher_forced"))
    assert all(note["converged"] and "advice" not in note for note in done)


@pytest.mark.parametrize("editor", [FineTuneConfig, AttentionFineTuneConfig])
def test_targets_of_several_tokens_that_cannot_be_learnt_get_a_warning(
    editor: type[FineTuneConfig],
) -> None:
    model = tiny()
    facts = model.complete([r.sentence for r in REQUESTS], [r.target_new for r in REQUESTS])
    several = [len(fact.target) > 1 for fact in facts]
    assert 0 < sum(several) < len(several)
    published = notes_of(editor(layer=1, steps=2))
    assert ["last_prompt" in note.get("warning", "") for note in published] == several
    assert all("teacher_forced" in n["advice"] for n in published if "warning" in n)
    forced = notes_of(editor(layer=1, steps=2, target_positions="teacher_forced"))
    assert not any("warning" in note for note in forced)
    with unwatched():
        joint = FineTuneEditor(editor(layer=1, steps=2)).edit_jointly(model, REQUESTS)
    assert ["warning" in note for note in notes_of_facts(joint)] == several


def test_a_call_from_python_logs_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    FineTuneEditor(FineTuneConfig(layer=1, steps=2)).edit(tiny(), REQUESTS)
    [record] = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "ft: of 4 edits, 4 did not converge" in record.getMessage()
    assert "the target has several tokens" in record.getMessage()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("config", [ConstrainedFineTuneConfig, AttentionFineTuneConfig])
def test_a_relative_bound_scales_with_the_weights(name: str, config: type) -> None:
    """At c, no entry moves by more than c RMS(W) / sqrt(D), and training reaches that."""
    model = tiny(name)
    settings = config(layer=1, max_change=None, max_relative_change=0.5, lr=0.1, steps=3)
    with unwatched():
        [delta] = FineTuneEditor(settings).edit(model, REQUESTS[:1])
    matrices = {path: each for path, each in delta.changes.items() if path.endswith(".weight")}
    assert matrices
    for path, change in matrices.items():
        module = model.module(path.removesuffix(".weight"))
        weight = input_major(module, module.weight.detach())  # (D, out)
        bound = 0.5 * float(weight.square().mean().sqrt()) / weight.shape[0] ** 0.5
        assert change.values.abs().max() == pytest.approx(bound, rel=1e-4)


def test_the_smaller_of_two_bounds_counts() -> None:
    weights = {"m.weight": torch.full((4, 3), 2.0), "m.bias": torch.zeros(3)}

    def bounds(absolute: float | None, relative: float | None) -> list[float] | None:
        return bounds_of(weights, FineTuneConfig(max_change=absolute, max_relative_change=relative))

    assert bounds(None, None) is None
    assert bounds(0.5, None) == [0.5, 0.5]
    assert bounds(None, 1.0) == [1.0, 1.0]  # 1 x 2 / sqrt(4)
    assert bounds(0.5, 1.0) == [0.5, 0.5]
    assert bounds(3.0, 1.0) == [1.0, 1.0]
