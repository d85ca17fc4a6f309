"""The loss of one step: edits must hold where they are rephrased, and nowhere else.

All edits of a step share three passes, each with a change of its own: the signals of the edits,
the model as it was, and the model as it would be edited. Only the upper blocks carry gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from editkit import LanguageModel
from editkit.models import Completion
from editkit.models.encoding import padded
from editkit.models.running import Tail, recording, replacing
from editkit_plugins.learned.networks import Changes, EditNetwork
from editkit_plugins.learned.signals import signals
from editkit_plugins.learned.training.items import Drawn


@dataclasses.dataclass(frozen=True)
class Losses:
    """What a step costs.

    Attributes:
        edit: Mean over edits of the target's NLL per token in the rephrased prompt, in nats.
        locality: Mean over tokens of KL(before || after) where facts must stay, in nats.
    """

    edit: Tensor
    locality: Tensor


def losses(
    model: LanguageModel,
    network: EditNetwork,
    drawn: Sequence[Drawn],
    *,
    lowest: int,
    observe: bool = False,
) -> Losses:
    """Edit, and look at the edited models.

    Args:
        model: The unedited model.
        network: Makes the changes; gradients flow into it where they are enabled.
        drawn: The edits with as many facts each.
        lowest: The lowest block that is edited.
        observe: Whether the network's running statistics take these edits in.
    """
    edits = [[each.edit] for each in drawn]
    found = signals(model, edits, [m.path for m in network.matrices], lowest=lowest)
    if observe:
        network.observe(found)
    hooks = {
        name.removesuffix(".weight"): _adding(change, len(drawn))
        for name, change in network.changes(found, edits).items()
    }
    with model.frozen():
        # Rephrased prompts are longer than most that must stay: apart, little is padding.
        outer = [each.outer for each in drawn]
        _, after = _states(model, outer, hooks, lowest)
        edit = _mean_nll(_log_p(model, outer, after), outer)
        stays = [fact for each in drawn for fact in each.locality]
        before, after = _states(model, stays, hooks, lowest)
        log_after = _log_p(model, stays, after)
        with torch.no_grad():
            log_before = _log_p(model, stays, before)
    locality = (log_before.exp() * (log_before - log_after)).sum(dim=-1).mean()
    return Losses(edit, locality)


def _states(
    model: LanguageModel,
    facts: Sequence[Completion],
    hooks: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    lowest: int,
) -> tuple[Tensor, Tensor]:
    """States after the last block, before and after the edits, (B, T, H); rows are by edit."""
    ids = padded([fact.prompt + fact.target[:-1] for fact in facts], model.device)  # (B, T)
    starts = torch.zeros(len(facts), dtype=torch.long, device=model.device)
    last = model.architecture.block(model.n_layers - 1)
    with recording(model, [last]) as seen:
        tail = Tail.record(model, None, ids, starts, start=lowest)
    with replacing(model, hooks):
        return seen[last].output, tail.run(tail.hidden)


def _adding(change: Changes, n_edits: int) -> Callable[[Tensor, Tensor], Tensor]:
    def run(inputs: Tensor, output: Tensor) -> Tensor:
        x = inputs.reshape(n_edits, -1, inputs.shape[-1])  # (E, rows T, in)
        return output + change.applied(x.float()).to(output.dtype).reshape(output.shape)

    return run


def _log_p(model: LanguageModel, facts: Sequence[Completion], states: Tensor) -> Tensor:
    """Log probabilities of all tokens at every place that predicts a target's token, (N, V)."""
    reads = [
        (row, len(fact.prompt) - 1 + i)
        for row, fact in enumerate(facts)
        for i in range(len(fact.target))
    ]
    row, place = (torch.tensor(column, device=states.device) for column in zip(*reads, strict=True))
    logits = model.head(model.final_hidden(states[row, place]))
    return torch.log_softmax(logits, dim=-1)


def _mean_nll(log_p: Tensor, facts: Sequence[Completion]) -> Tensor:
    """Mean over facts of the NLL per token of their targets."""
    tokens = [token for fact in facts for token in fact.target]
    shares = [1 / (len(fact.target) * len(facts)) for fact in facts for _ in fact.target]
    wanted = torch.tensor(tokens, device=log_p.device)
    weight = torch.tensor(shares, device=log_p.device)
    return -(log_p.gather(1, wanted[:, None])[:, 0] * weight).sum()
