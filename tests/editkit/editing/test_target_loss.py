from __future__ import annotations

import pytest
import torch

from editkit.editing.target_loss import (
    TargetLoss,
    fact_losses,
    logit_losses,
    target_rows,
)
from editkit.models import Completion
from editkit.models.encoding import padded
from editkit.models.running import Tail, with_weights
from tests.tiny import tiny

EDITS = [
    [Completion((5, 6, 7), (11, 12)), Completion((8,), (13,))],
    [Completion((9, 10), (14, 15, 16))],
    [Completion((3, 4), (17,))],
]


def tail_of(model, edits, positions="teacher_forced") -> Tail:
    ids = padded(target_rows(edits, positions), model.device)
    starts = torch.zeros(len(ids), dtype=torch.long)
    return Tail.record(model, None, ids, starts, start=1)


def by_definition(model, facts, positions: str, reduction: str) -> float:
    """One fact at a time, the whole model, logits everywhere."""
    per_fact = []
    for fact in facts:
        ids = torch.tensor([fact.prompt + fact.target])
        with torch.no_grad():
            log_p = torch.log_softmax(model.hf(input_ids=ids).logits[0].float(), dim=-1)
        last = len(fact.prompt) - 1
        step = 1 if positions == "teacher_forced" else 0
        per_fact.append([-float(log_p[last + step * i, t]) for i, t in enumerate(fact.target)])
    if reduction == "edit_mean":
        return sum(map(sum, per_fact)) / sum(map(len, per_fact))
    sizes = [len(nll) if reduction == "token_mean" else 1 for nll in per_fact]
    return sum(sum(nll) / n for nll, n in zip(per_fact, sizes, strict=True)) / len(facts)


@pytest.mark.parametrize("positions", ["teacher_forced", "last_prompt"])
@pytest.mark.parametrize("reduction", ["token_mean", "sum", "edit_mean"])
def test_the_loss_of_each_edit_is_its_definition(positions: str, reduction: str) -> None:
    model = tiny()
    loss = TargetLoss.of(EDITS, device="cpu", positions=positions, reduction=reduction)
    tail = tail_of(model, EDITS, positions)
    losses = loss.of_states(model, loss.states(tail.run(tail.hidden)))
    expected = [by_definition(model, facts, positions, reduction) for facts in EDITS]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_some_edits_is_selected_with_their_rows() -> None:
    model = tiny()
    loss = TargetLoss.of(EDITS, device="cpu")
    tail = tail_of(model, EDITS)
    whole = loss.of_states(model, loss.states(tail.run(tail.hidden)))
    rows = torch.tensor([0, 1, 3])
    some, fewer = loss.select([0, 2], rows), tail.select(rows)
    actual = some.of_states(model, some.states(fewer.run(fewer.hidden)))
    assert actual.tolist() == pytest.approx(whole[[0, 2]].tolist(), rel=1e-5)
    assert some.n_edits == 2


def test_losses_of_logits_and_their_gradients_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(5, 30, dtype=torch.float64)).requires_grad_()
    tokens = torch.tensor([4, 4, 29])
    before = torch.log_softmax(torch.randn(2, 30, dtype=torch.float64), dim=-1)
    log_p = torch.log_softmax(logits, dim=-1)
    after = log_p[3:]
    expected = -log_p[range(3), tokens], (after.exp() * (after - before)).sum(dim=1)
    weights = torch.rand(3, dtype=torch.float64), torch.rand(2, dtype=torch.float64)
    actual = logit_losses(logits, tokens, before)
    torch.testing.assert_close(actual, expected)
    [plain] = torch.autograd.grad(expected, logits, weights)
    torch.testing.assert_close(torch.autograd.grad(actual, logits, weights), (plain,))
    nll, no_divergence = logit_losses(logits[:3], tokens)
    torch.testing.assert_close(nll, expected[0])
    assert no_divergence.shape == (0,)


def test_a_table_may_have_one_line_per_row() -> None:
    loss = TargetLoss.of(EDITS, device="cpu", positions="last_prompt")
    table = torch.rand(4, 20)
    expected = [
        float(table[row, token]) / (len(fact.target) * len(facts))
        for row, (facts, fact) in enumerate((facts, fact) for facts in EDITS for fact in facts)
        for token in fact.target
    ]
    assert loss.weighted(table, by_row=True).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])  # gemma2 caps its logits
def test_the_loss_of_facts_with_other_weights_is_that_of_a_model_with_these_weights(
    name: str,
) -> None:
    model, other, facts = tiny(name), tiny(name), [fact for edit in EDITS for fact in edit]
    path = f"{model.path(1, 'mlp_out')}.weight"
    before = model.hf.get_parameter(path)
    weight = (before.detach() * 2).requires_grad_()
    with model.frozen(), with_weights(model, {path: weight}):
        losses = fact_losses(model, facts)
    assert model.hf.get_parameter(path) is before
    other.hf.get_parameter(path).data *= 2
    expected = [by_definition(other, [fact], "teacher_forced", "token_mean") for fact in facts]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)
    [gradient] = torch.autograd.grad(losses.sum(), [weight])
    assert float(gradient.abs().max()) > 0
