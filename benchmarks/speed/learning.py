"""A training step of KE or MEND, one edit at a time: the plain way to compare batches with.

As in the published code, each edit has its own backward pass and copy of the weights, and whole
texts run through the whole model, with logits at every token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from editkit import LanguageModel
from editkit.editing.gradients import LowerBlocks, edit_gradients
from editkit.models import Completion
from editkit.models.encoding import padded
from editkit.models.weight_layout import as_stored
from editkit_plugins.learned.networks import EditNetwork
from editkit_plugins.learned.settings import PRESETS, KeSettings, MendSettings
from editkit_plugins.learned.trained import new_network
from editkit_plugins.learned.training.cached_blocks import CachedLowerBlocks
from editkit_plugins.learned.training.data import TrainingEdit
from editkit_plugins.learned.training.objective import Losses, losses

Step = Callable[[LanguageModel, EditNetwork, Sequence[TrainingEdit]], Losses]


def settings_of(method: str) -> MendSettings | KeSettings:
    """The fast preset of a method."""
    fast = PRESETS[method]["fast"]
    return MendSettings(**fast) if method == "mend" else KeSettings(**fast)


def network_of(model: LanguageModel, method: str, drawn: Sequence[TrainingEdit]) -> EditNetwork:
    """A new network whose running statistics have seen some edits."""
    network = new_network(model, settings_of(method))
    network.update_statistics(
        edit_gradients(LowerBlocks(model, 0), [[each.edit] for each in drawn], network.paths)
    )
    return network


def steps(
    model: LanguageModel,
    network: EditNetwork,
    batches: Sequence[Sequence[TrainingEdit]],
    step: Step,
) -> list[float]:
    """Train a copy of the network for some steps; returns the losses of each."""
    network = copy.deepcopy(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    numbers = []
    for drawn in batches:
        optimiser.zero_grad()
        loss = step(model, network, drawn)
        torch.autograd.backward(0.5 * loss.edit + loss.locality)
        optimiser.step()
        numbers += [loss.edit.item(), loss.locality.item()]
    return numbers


class Together:
    """A step with all edits together, as in training.

    Args:
        model: The unedited model.
        blocks: Number of edited blocks, counted from the last.
    """

    def __init__(self, model: LanguageModel, blocks: int) -> None:
        self._blocks = CachedLowerBlocks(model, model.n_layers - blocks)

    def __call__(
        self, model: LanguageModel, network: EditNetwork, drawn: Sequence[TrainingEdit]
    ) -> Losses:
        """The losses of a step."""
        return losses(self._blocks, network, drawn)


def one_at_a_time(
    model: LanguageModel, network: EditNetwork, drawn: Sequence[TrainingEdit]
) -> Losses:
    """The losses of a step, one edit at a time."""
    edit_losses, divergences = [], []
    with model.frozen():
        for each in drawn:
            gradients = edit_gradients(LowerBlocks(model, 0), [[each.edit]], network.paths)
            weights = _edited(model, network.changes(gradients, [[each.edit]]))
            after = _log_p(model, [each.rephrased], weights)
            wanted = torch.tensor(each.rephrased.target, device=model.device)[:, None]
            edit_losses.append(-after.gather(1, wanted).mean())
            with torch.no_grad():
                before = _log_p(model, each.locality, {})
            after = _log_p(model, each.locality, weights)
            divergences.append((before.exp() * (before - after)).sum(dim=-1))
    return Losses(torch.stack(edit_losses).mean(), torch.cat(divergences).mean())


def _edited(model: LanguageModel, changes: Any) -> dict[str, Tensor]:
    """The changed weights of the first edit, as the model stores them."""
    weights = {}
    first = torch.zeros(1, dtype=torch.long, device=model.device)
    for name, change in changes.items():
        module = model.module(name.rpartition(".")[0])
        eye = torch.eye(_width(module), device=model.device)[None]  # (1, in, in)
        dense = change.output_change(eye, first)[0]  # (in, out)
        weights[name] = module.get_parameter("weight") + as_stored(module, dense)
    return weights


def _width(module: torch.nn.Module) -> int:
    return int(as_stored(module, module.get_parameter("weight")).shape[0])


def _log_p(model: LanguageModel, facts: Sequence[Completion], weights: dict[str, Tensor]) -> Tensor:
    """Log probabilities at the positions that predict a target's token, (N, V)."""
    ids = padded([fact.prompt + fact.target[:-1] for fact in facts], model.device)  # (B, T)
    logits = torch.func.functional_call(model.hf, weights, (ids,)).logits  # (B, T, V)
    reads = [
        logits[row, len(fact.prompt) - 1 : len(fact.prompt) - 1 + len(fact.target)]
        for row, fact in enumerate(facts)
    ]
    return torch.log_softmax(torch.cat(reads).float(), dim=-1)
