"""The gradient of an edit's loss, as one input and one output gradient per token.

For a linear module with input x and output gradient d, the gradient of the weight is a sum over
tokens, ``sum_t outer(x_t, d_t)``. One backward pass yields x and d of every edited matrix for many
edits at once, because each edit's loss depends only on its own rows. The blocks below the lowest
edited one cannot change, so they run once, without gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from editkit.editing.target_loss import TargetLoss, target_rows
from editkit.models.encoding import Completion, padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import Tail, replacing

__all__ = ["Edit", "EditGradients", "LowerBlocks", "Tokens", "edit_gradients"]

Edit = Sequence[Completion]
"""The facts that one edit writes together."""

Tokens = tuple[int, ...]
"""Token ids of one text."""


@dataclasses.dataclass(frozen=True)
class EditGradients:
    """Factors of the gradients of E edits, over a batch of B rows with T tokens.

    Attributes:
        inputs: Module path -> inputs x of that module, (B, T, in), float32.
        output_gradients: Module path -> gradients d of its outputs, (B, T, out), float32.
        edit_of_row: The edit that each row belongs to, (B,).
        losses: Loss of each edit in nats, the mean over its facts' target tokens, (E,).
    """

    inputs: Mapping[str, Tensor]
    output_gradients: Mapping[str, Tensor]
    edit_of_row: Tensor
    losses: Tensor

    def factors(self, path: str) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens that contribute to a module's gradient: neither x nor d is zero.

        Returns:
            x (N, in), d (N, out), and the edit of each of the N tokens, (N,).
        """
        x, d = self.inputs[path], self.output_gradients[path]
        contributes = x.any(dim=-1) & d.any(dim=-1)  # (B, T)
        edit_of_token = self.edit_of_row[:, None].expand_as(contributes)
        return x[contributes], d[contributes], edit_of_token[contributes]


class LowerBlocks:
    """Runs texts through the blocks that no edit changes.

    Args:
        model: The unedited model.
        lowest: The lowest edited block.
    """

    def __init__(self, model: LanguageModel, lowest: int) -> None:
        self.model = model
        self.lowest = lowest

    def tail(self, texts: Sequence[Tokens]) -> Tail:
        """The upper blocks, with the input of the lowest edited block for right-padded texts."""
        ids = padded(texts, self.model.device)  # (B, T)
        starts = torch.zeros(len(texts), dtype=torch.long, device=ids.device)
        return Tail.record(self.model, None, ids, starts, start=self.lowest)


def edit_gradients(
    blocks: LowerBlocks, edits: Sequence[Edit], paths: Sequence[str]
) -> EditGradients:
    """Run one forward and one backward pass over all edits.

    Args:
        blocks: The unedited model, split at the lowest edited block.
        edits: The facts of each edit.
        paths: Paths of the edited modules.
    """
    model = blocks.model
    loss = TargetLoss.of(edits, device=model.device, reduction="edit_mean")
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with model.frozen(), torch.enable_grad():
        tail = blocks.tail(target_rows(edits))
        with replacing(model, {path: _probing(path, seen) for path in paths}):
            states = loss.states(tail.run(tail.hidden))  # (N, H)
        losses = loss.of_states(model, states)  # (E,)
        gradients = torch.autograd.grad(losses.sum(), [seen[path][1] for path in paths])
    shape = tail.hidden.shape[:2]
    return EditGradients(
        inputs={path: seen[path][0].reshape(*shape, -1).float() for path in paths},
        output_gradients={
            path: gradient.reshape(*shape, -1).float()
            for path, gradient in zip(paths, gradients, strict=True)
        },
        edit_of_row=torch.tensor(
            [edit for edit, facts in enumerate(edits) for _ in facts], device=model.device
        ),
        losses=losses.detach(),
    )


def _probing(
    path: str, seen: dict[str, tuple[Tensor, Tensor]]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Store a module's input, and add a zero to its output that receives the output's gradient."""

    def run(inputs: Tensor, output: Tensor) -> Tensor:
        zero = torch.zeros_like(output).requires_grad_()
        seen[path] = (inputs.detach(), zero)
        return output + zero

    return run
