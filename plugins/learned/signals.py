"""What one backward pass tells about each edit: inputs and output gradients of some modules.

The gradient of a linear module's weight is the sum over tokens of ``outer(x, d)``, with ``x`` its
input and ``d`` the gradient of its output. Many edits share one pass: each loss depends only on
its own rows. Blocks below the lowest module are run without gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from editkit.models import Completion
from editkit.models.running import replacing
from editkit_plugins.learned.below import Below

Edit = Sequence[Completion]
"""The facts that one edit writes together."""


@dataclasses.dataclass(frozen=True)
class Signals:
    """What a backward pass gave.

    Attributes:
        inputs: Inputs of each module by path, (B, T, in), float32.
        gradients: Gradients of its outputs, (B, T, out).
        owner: The edit of each row, (B,).
        losses: Loss of each edit, the mean over its facts' target tokens, in nats, (E,).
    """

    inputs: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    owner: Tensor
    losses: Tensor

    def rows(self, path: str) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens of a module that say anything: x (N, in), d (N, out), and their edit (N,)."""
        x, d = self.inputs[path], self.gradients[path]
        kept = x.any(dim=-1) & d.any(dim=-1)  # (B, T)
        owner = self.owner[:, None].expand_as(kept)
        return x[kept], d[kept], owner[kept]


def signals(below: Below, edits: Sequence[Edit], paths: Sequence[str]) -> Signals:
    """Run all edits forwards and backwards once.

    Args:
        below: The unedited model, with the lowest block of the modules.
        edits: The facts of each edit.
        paths: The modules.
    """
    model = below.model
    facts = [(edit, fact) for edit, group in enumerate(edits) for fact in group]
    rows = [fact.prompt + fact.target[:-1] for _, fact in facts]
    owner = torch.tensor([edit for edit, _ in facts], device=model.device)
    sizes = [sum(len(fact.target) for fact in group) for group in edits]
    reads = [
        (row, len(fact.prompt) - 1 + i, token, edit, 1 / sizes[edit])
        for row, (edit, fact) in enumerate(facts)
        for i, token in enumerate(fact.target)
    ]
    row, place, label, edit_of, share = (
        torch.tensor(column, device=model.device) for column in zip(*reads, strict=True)
    )
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with model.frozen(), torch.enable_grad():
        tail = below.tail(rows)
        with replacing(model, {path: _watching(path, seen) for path in paths}):
            states = tail.run(tail.hidden)[row, place]  # (N, H)
        log_p = torch.log_softmax(model.head(model.final_hidden(states)), dim=-1)  # (N, V)
        nll = -log_p.gather(1, label[:, None])[:, 0] * share
        losses = torch.zeros(len(edits), device=nll.device).index_add(0, edit_of, nll)  # (E,)
        found = torch.autograd.grad(losses.sum(), [seen[path][1] for path in paths])
    shape = tail.hidden.shape[:2]
    return Signals(
        inputs={path: seen[path][0].reshape(*shape, -1).float() for path in paths},
        gradients={
            path: gradient.reshape(*shape, -1).float()
            for path, gradient in zip(paths, found, strict=True)
        },
        owner=owner,
        losses=losses.detach(),
    )


def _watching(
    path: str, seen: dict[str, tuple[Tensor, Tensor]]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Keeps a module's input, and adds a zero to its output whose gradient is the output's own."""

    def run(inputs: Tensor, output: Tensor) -> Tensor:
        nothing = torch.zeros_like(output).requires_grad_()
        seen[path] = (inputs.detach(), nothing)
        return output + nothing

    return run
