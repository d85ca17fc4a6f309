"""The loss of one step: edits must hold where they are rephrased, and nowhere else.

All edits of a step share their passes, each with a change of its own. Only the edited blocks and
those above are run; what lies below, and the model as it was, is remembered from text to text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from editkit import LanguageModel
from editkit.models import Completion
from editkit.models.encoding import chunks_by_tokens
from editkit.models.running import replacing
from editkit_plugins.learned.below import Below, Remembered
from editkit_plugins.learned.networks import Changes, EditNetwork
from editkit_plugins.learned.signals import signals
from editkit_plugins.learned.training.items import Drawn

_TOKENS_PER_PASS = 16384


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
    below: Remembered, network: EditNetwork, drawn: Sequence[Drawn], *, observe: bool = False
) -> Losses:
    """Edit, and look at the edited models.

    Args:
        below: The unedited model, with the lowest block that is edited.
        network: Makes the changes; gradients flow into it where they are enabled.
        drawn: The edits with as many facts each.
        observe: Whether the network's running statistics take these edits in.
    """
    model = below.model
    edits = [[each.edit] for each in drawn]
    found = signals(below, edits, [m.path for m in network.matrices])
    if observe:
        network.observe(found)
    changes = network.changes(found, edits)
    outer = [each.outer for each in drawn]
    stays = [fact for each in drawn for fact in each.locality]
    owners = [i for i, each in enumerate(drawn) for _ in each.locality]
    with model.frozen():
        states = _edited(below, changes, [*outer, *stays], [*range(len(drawn)), *owners])
        log_p = _log_p(model, states)  # (N, V)
        n_outer = sum(len(fact.target) for fact in outer)
        edit = _mean_nll(log_p[:n_outer], outer)
        with torch.no_grad():
            before = [below.above(_text(fact))[len(fact.prompt) - 1 :] for fact in stays]
            log_before = _log_p(model, torch.cat(before))
    locality = (log_before.exp() * (log_before - log_p[n_outer:])).sum(dim=-1).mean()
    return Losses(edit, locality)


def _text(fact: Completion) -> tuple[int, ...]:
    return fact.prompt + fact.target[:-1]


def _edited(
    below: Below,
    changes: Mapping[str, Changes],
    facts: Sequence[Completion],
    owners: Sequence[int],
) -> Tensor:
    """States after the last block where a target's token is predicted, (N, H), fact by fact.

    Args:
        below: The unedited model.
        changes: The edits' changes by parameter.
        facts: What is asked.
        owners: The edit that each fact is asked under.
    """
    device = below.model.device
    texts = [_text(fact) for fact in facts]
    found: list[Tensor] = [torch.empty(0)] * len(facts)
    for batch in chunks_by_tokens([len(text) for text in texts], _TOKENS_PER_PASS):
        owner = torch.tensor([owners[i] for i in batch], device=device)
        hooks = {
            name.removesuffix(".weight"): _adding(change, owner) for name, change in changes.items()
        }
        tail = below.tail([texts[i] for i in batch])
        with replacing(below.model, hooks):
            states = tail.run(tail.hidden)  # (B, T, H)
        for row, i in zip(states, batch, strict=True):
            found[i] = row[len(facts[i].prompt) - 1 : len(texts[i])]
    return torch.cat(found)


def _adding(change: Changes, owner: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    def run(inputs: Tensor, output: Tensor) -> Tensor:
        x = inputs.reshape(len(owner), -1, inputs.shape[-1])  # (B, T, in)
        return output + change.applied(x.float(), owner).to(output.dtype).reshape(output.shape)

    return run


def _log_p(model: LanguageModel, states: Tensor) -> Tensor:
    """Log probabilities of all tokens after some states, (N, V)."""
    return torch.log_softmax(model.head(model.final_hidden(states)), dim=-1)


def _mean_nll(log_p: Tensor, facts: Sequence[Completion]) -> Tensor:
    """Mean over facts of the NLL per token of their targets."""
    tokens = [token for fact in facts for token in fact.target]
    shares = [1 / (len(fact.target) * len(facts)) for fact in facts for _ in fact.target]
    wanted = torch.tensor(tokens, device=log_p.device)
    weight = torch.tensor(shares, device=log_p.device)
    return -(log_p.gather(1, wanted[:, None])[:, 0] * weight).sum()
