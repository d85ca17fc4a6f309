"""The loss of targets: how improbable the targets of edits are under a model.

For each edit e with facts f and target tokens t_1 ... t_n of each fact,

    L_e = sum over f and i of  w_fi · -log P[t_i | prompt_f, t_1 ... t_(i-1)]

Many edits share one forward pass; logits are computed only where a target token is predicted.
Usage:

    loss = TargetLoss.of(edits, device=model.device)
    ids = padded(target_rows(edits), model.device)              # (B, T)
    hidden = ...                                                # (B, T, H), after the last block
    log_p = log_probabilities(model, loss.states(hidden))       # (N, V)
    loss.per_edit(log_p)                                        # (E,), differentiable
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from editkit.models.encoding import Completion, padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import forward

__all__ = [
    "Positions",
    "Reduction",
    "TargetLoss",
    "fact_losses",
    "log_probabilities",
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


def log_probabilities(model: LanguageModel, states: Tensor) -> Tensor:
    """Next-token log probabilities from hidden states.

    Args:
        model: The model.
        states: States after the last block, before the final norm, (N, H).

    Returns:
        (N, V), float32.
    """
    return torch.log_softmax(model.head(model.final_hidden(states)), dim=-1)


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
    return loss.per_edit(torch.log_softmax(model.head(loss.states(hidden)), dim=-1))


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

    def per_edit(self, log_p: Tensor) -> Tensor:
        """The loss of each edit in nats, (E,), from log probabilities (N, V)."""
        nll = -self.weighted(log_p)  # (N,)
        total = torch.zeros(self.n_edits, device=nll.device)
        return total.index_add(0, self.edit, nll)

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
