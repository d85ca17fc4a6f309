"""The loss of targets: how improbable the targets of edits are under a model.

For each edit e with facts f and target tokens t_1 ... t_n of each fact,

    L_e = sum over f and i of  w_fi · -log P[t_i | prompt_f, t_1 ... t_(i-1)]

Many edits share one forward pass; logits are computed only where a target token is predicted.
Usage:

    loss = TargetLoss.of(edits, device=model.device)
    ids = padded(target_rows(edits), model.device)              # (B, T)
    hidden = ...                                                # (B, T, H), after the last block
    loss.of_states(model, loss.states(hidden))                  # (E,), differentiable

The gradient of -log P[t | x] in the logits is softmax(logits) - onehot(t). :func:`logit_losses`
computes it in one pass over the logits, where autograd would fill several tables of their size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from editkit.models.encoding import Completion, padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import forward

__all__ = [
    "Positions",
    "Reduction",
    "TargetLoss",
    "fact_losses",
    "log_probabilities",
    "logit_losses",
    "logits_after",
    "target_rows",
]

Positions = Literal["teacher_forced", "last_prompt"]
"""Where a target's tokens are predicted: each after the true tokens before it, or all of them at
the prompt's last token."""

Reduction = Literal["token_mean", "sum", "edit_mean"]
"""How the tokens of an edit's targets are weighted in its loss.

- ``token_mean``: the mean over each target's tokens, then the mean over the edit's facts;
- ``sum``: their sum, -log of the probability of the whole target, then the mean over the facts;
- ``edit_mean``: one mean over all target tokens of the edit.
"""


def target_rows(
    edits: Sequence[Sequence[Completion]], positions: Positions = "teacher_forced"
) -> list[tuple[int, ...]]:
    """The tokens to run for each fact, edit by edit: prompt and target without its last token."""
    forced = positions == "teacher_forced"
    return [f.prompt + f.target[:-1] if forced else f.prompt for facts in edits for f in facts]


def logits_after(model: LanguageModel, states: Tensor) -> Tensor:
    """Next-token logits from hidden states.

    Args:
        model: The model.
        states: States after the last block, before the final norm, (N, H).

    Returns:
        (N, V), float32.
    """
    return model.head(model.final_hidden(states))


def log_probabilities(model: LanguageModel, states: Tensor) -> Tensor:
    """Next-token log probabilities from hidden states.

    Args:
        model: The model.
        states: States after the last block, before the final norm, (N, H).

    Returns:
        (N, V), float32.
    """
    return torch.log_softmax(logits_after(model, states), dim=-1)


def logit_losses(
    logits: Tensor, tokens: Tensor, before: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """-log P of tokens and, in further rows, KL(P || P before); differentiable in the logits once.

    Args:
        logits: (N + R, V), float32.
        tokens: A token for each of the first N rows, (N,).
        before: Log probabilities that the other R rows are compared with, (R, V); None if R = 0.

    Returns:
        -log P[token], (N,), and the divergences, (R,), in nats.
    """
    if before is None:
        before = logits.new_empty(0, logits.shape[1])
    apply: Any = _LogitLosses.apply
    losses: tuple[Tensor, Tensor] = apply(logits, tokens, before)
    return losses


class _LogitLosses(torch.autograd.Function):
    """With P = softmax(logits): d(-log P[t]) = P - onehot(t), and dKL = P (log P - log Q - KL)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.log_softmax(logits, dim=-1)  # (N + R, V)
        n = len(tokens)
        nll = -log_p[torch.arange(n, device=tokens.device), tokens]  # (N,)
        kl = (log_p[n:].exp() * (log_p[n:] - before)).sum(dim=1)  # (R,)
        ctx.save_for_backward(log_p, tokens, before, kl)
        return nll, kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_nll: Tensor, of_kl: Tensor) -> tuple[Tensor, None, None]:
        log_p, tokens, before, kl = ctx.saved_tensors
        n = len(tokens)
        gradient = log_p.exp()  # (N + R, V)
        gradient[:n] *= of_nll[:, None]
        gradient[torch.arange(n, device=tokens.device), tokens] -= of_nll
        gradient[n:] *= (log_p[n:] - before - kl[:, None]) * of_kl[:, None]
        return gradient, None, None


def fact_losses(model: LanguageModel, facts: Sequence[Completion]) -> Tensor:
    """The loss of each fact under the model as it is now, in one pass.

    Teacher-forced, the mean over each target's tokens, in nats; differentiable in whatever the
    model computes with.

    Args:
        model: The model, perhaps with replaced weights or outputs.
        facts: The facts; at least one.

    Returns:
        (F,), float32.
    """
    edits = [[fact] for fact in facts]
    loss = TargetLoss.of(edits, device=model.device)
    hidden = forward(model, padded(target_rows(edits), model.device))  # (F, T, H), after the norm
    return loss.per_edit(logit_losses(model.head(loss.states(hidden)), loss.token)[0])


@dataclasses.dataclass(frozen=True)
class TargetLoss:
    """The N target tokens of many edits, with the position and weight of each.

    Attributes:
        row: Row of the batch that predicts each token, (N,).
        column: Token of the row that predicts it, (N,).
        token: Id of the target's token, (N,).
        edit: Edit that the token belongs to, (N,), ascending.
        weight: Its weight in the edit's loss, (N,), float32.
        n_edits: Number of edits E.
    """

    row: Tensor
    column: Tensor
    token: Tensor
    edit: Tensor
    weight: Tensor
    n_edits: int

    @classmethod
    def of(
        cls,
        edits: Sequence[Sequence[Completion]],
        *,
        device: torch.device | str,
        positions: Positions = "teacher_forced",
        reduction: Reduction = "token_mean",
    ) -> TargetLoss:
        """The loss of edits, for a batch with one row per fact in the order of `target_rows`.

        Args:
            edits: The facts of each edit; every edit has at least one.
            device: Device of the model's hidden states.
            positions: Where the targets' tokens are predicted.
            reduction: How they are weighted.
        """
        step = 1 if positions == "teacher_forced" else 0
        entries: list[tuple[int, int, int, int, float]] = []
        row = 0
        for edit, facts in enumerate(edits):
            for fact in facts:
                size = {
                    "token_mean": len(fact.target) * len(facts),
                    "sum": len(facts),
                    "edit_mean": sum(len(each.target) for each in facts),
                }[reduction]
                last = len(fact.prompt) - 1
                entries += [
                    (row, last + step * i, token, edit, 1 / size)
                    for i, token in enumerate(fact.target)
                ]
                row += 1
        row_of, column, token_id, edit_of, weight = (
            torch.tensor(values, device=device) for values in zip(*entries, strict=True)
        )
        return cls(row_of, column, token_id, edit_of, weight, n_edits=len(edits))

    def states(self, hidden: Tensor) -> Tensor:
        """The states that predict the tokens: from (B, T, H) to (N, H)."""
        return hidden[self.row, self.column]

    def weighted(self, table: Tensor, *, by_row: bool = False) -> Tensor:
        """Look up the target tokens in a table and multiply by their weights, (N,).

        Args:
            table: For example log probabilities, (N, V), one line per target token.
            by_row: The table has one line per row of the batch instead, (B, V), for targets that
                are read at a single position in each row.
        """
        line = self.row if by_row else torch.arange(len(self.token), device=table.device)
        chosen = table[line.to(table.device), self.token.to(table.device)]
        return chosen * self.weight.to(table.device)

    def of_states(self, model: LanguageModel, states: Tensor) -> Tensor:
        """The loss of each edit in nats, (E,), from :meth:`states` after the last block, (N, H)."""
        nll, _ = logit_losses(logits_after(model, states), self.token)
        return self.per_edit(nll)

    def per_edit(self, nll: Tensor) -> Tensor:
        """The loss of each edit in nats, (E,), from -log P of each of its tokens, (N,)."""
        total = torch.zeros(self.n_edits, device=nll.device)
        return total.index_add(0, self.edit, nll * self.weight)

    def select(self, edits: Sequence[int], rows: Tensor) -> TargetLoss:
        """The loss of a subset of the edits.

        Args:
            edits: Indices of the edits, ascending.
            rows: Old index of each row of the new batch, (B',); must include all rows of these
                edits.
        """
        chosen = torch.tensor(edits, device=self.edit.device)
        new_edit = torch.full((self.n_edits,), -1, device=chosen.device)
        new_edit[chosen] = torch.arange(len(edits), device=chosen.device)
        new_row = torch.full((int(rows.max()) + 1,), -1, device=rows.device)
        new_row[rows] = torch.arange(len(rows), device=rows.device)
        kept = new_edit[self.edit] >= 0  # (N,)
        return TargetLoss(
            row=new_row[self.row[kept]],
            column=self.column[kept],
            token=self.token[kept],
            edit=new_edit[self.edit[kept]],
            weight=self.weight[kept],
            n_edits=len(edits),
        )
