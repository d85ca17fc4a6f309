"""A step of KE's or MEND's training, one edit at a time: the plain way that batches are held to.

As in the published code, every edit has its own backward pass and its own copy of the weights, and
whole texts go through the whole model, with logits at every token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from editkit import LanguageModel
from editkit.models import Completion
from editkit.models.encoding import padded
from editkit.models.orientation import as_stored
from editkit_plugins.learned.gradients import CachedLowerBlocks, LowerBlocks, edit_gradients
from editkit_plugins.learned.networks import EditNetwork
from editkit_plugins.learned.settings import PRESETS, KeSettings, MendSettings
from editkit_plugins.learned.trained import new_network
from editkit_plugins.learned.training.data import TrainingEdit
from editkit_plugins.learned.training.objective import Losses, losses

Step = Callable[[LanguageModel, EditNetwork, Sequence[TrainingEdit]], Losses]


def settings_of(method: str) -> MendSettings | KeSettings:
    """The fast preset of a method."""
    schema = {"mend": MendSettings, "ke": KeSettings}[method]
    return schema.model_validate(PRESETS[method]["fast"])


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
    """Train a copy of the network for some steps; the losses of each."""
    network = copy.deepcopy(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    found = []
    for drawn in batches:
        optimiser.zero_grad()
        loss = step(model, network, drawn)
        (0.5 * loss.edit + loss.locality).backward()
        optimiser.step()
        found += [loss.edit.item(), loss.locality.item()]
    return found


class Together:
    """The edits of a step together, as training does.

    Args:
        model: The unedited model.
        blocks: The last so many are edited.
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
    """The same, edit by edit."""
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
    """Log probabilities of all tokens where a target's token is predicted, (N, V)."""
    ids = padded([fact.prompt + fact.target[:-1] for fact in facts], model.device)  # (B, T)
    logits = torch.func.functional_call(model.hf, weights, (ids,)).logits  # (B, T, V)
    reads = [
        logits[row, len(fact.prompt) - 1 : len(fact.prompt) - 1 + len(fact.target)]
        for row, fact in enumerate(facts)
    ]
    return torch.log_softmax(torch.cat(reads).float(), dim=-1)
