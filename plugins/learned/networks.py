"""The contract that KE and MEND share: edited matrices, and a network that proposes their changes.

:mod:`~editkit_plugins.learned.ke` and :mod:`~editkit_plugins.learned.mend` hold the two networks.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from editkit import ConfigError, LanguageModel, LowRank
from editkit.editing.gradients import Edit, EditGradients
from editkit.models.weight_layout import input_major


@dataclasses.dataclass(frozen=True)
class Matrix:
    """An edited weight.

    Attributes:
        path: Dotted path of its module.
        shape: Shape (in, out), input-major.
        mode: Index among the edited matrices of this shape.
    """

    path: str
    shape: tuple[int, int]
    mode: int

    @property
    def name(self) -> str:
        """Name of the parameter in the model."""
        return f"{self.path}.weight"


def edited_matrices(model: LanguageModel, blocks: int) -> list[Matrix]:
    """The output and input projections of the MLPs in the last ``blocks`` blocks, block by block.

    Raises:
        ConfigError: The model has fewer blocks.
        ModelError: A block has experts instead of one MLP.
    """
    if blocks > model.n_layers:
        raise ConfigError(
            f"blocks is {blocks}, but {model.name} has only {model.n_layers} blocks.",
            hint=f"Set blocks to at most {model.n_layers}.",
        )
    parts = (model.architecture.mlp_out, *model.architecture.mlp_in)
    n_of_shape: dict[tuple[int, int], int] = {}
    matrices = []
    for layer in range(model.n_layers - blocks, model.n_layers):
        model.path(layer, "mlp_out")  # refuses experts
        for part in parts:
            path = model.architecture.path(layer, part)
            module = model.module(path)
            n_in, n_out = input_major(module, module.get_parameter("weight")).shape
            mode = n_of_shape.get((n_in, n_out), 0)
            n_of_shape[n_in, n_out] = mode + 1
            matrices.append(Matrix(path, (n_in, n_out), mode))
    return matrices


class MatrixChanges:
    """The low-rank changes that E edits make to one matrix, zero-padded to the largest rank R.

    Args:
        left: (E, in, R)
        right: (E, R, out)
        ranks: Rank of each edit's change before padding.
    """

    def __init__(self, left: Tensor, right: Tensor, ranks: Sequence[int]) -> None:
        self.left, self.right, self.ranks = left, right, ranks

    @classmethod
    def from_factors(
        cls, x: Tensor, d: Tensor, edit_of_token: Tensor, n_edits: int
    ) -> MatrixChanges:
        """Sum ``outer(x_t, d_t)`` over the tokens of each edit.

        Args:
            x: (N, in)
            d: (N, out)
            edit_of_token: The edit of each token, (N,), in ascending order.
            n_edits: E
        """
        ranks = torch.bincount(edit_of_token, minlength=n_edits)  # (E,)
        start = (ranks.cumsum(0) - ranks)[edit_of_token]
        place = torch.arange(len(edit_of_token), device=edit_of_token.device) - start
        index = (edit_of_token, place)
        largest = int(ranks.max()) if len(edit_of_token) else 0
        left = x.new_zeros(n_edits, largest, x.shape[-1]).index_put(index, x)  # (E, R, in)
        right = d.new_zeros(n_edits, largest, d.shape[-1]).index_put(index, d)  # (E, R, out)
        return cls(left.transpose(1, 2), right, ranks.tolist())

    def output_change(self, x: Tensor, edit_of_row: Tensor) -> Tensor:
        """The term that the edits add to the module's output, (B, T, out).

        Args:
            x: Inputs of the module, (B, T, in).
            edit_of_row: The edit that applies to each row, (B,).
        """
        return (x @ self.left[edit_of_row]) @ self.right[edit_of_row]

    def low_rank(self, edit: int, scale: float = 1.0) -> LowRank:
        """The change of one edit without its padding, times ``scale``."""
        rank = self.ranks[edit]
        return LowRank(self.left[edit, :, :rank].contiguous(), scale * self.right[edit, :rank])


class EditNetwork(nn.Module, ABC):
    """A network that turns the gradients of edits into changes of weights.

    Attributes:
        matrices: The weights that it changes.
    """

    matrices: Sequence[Matrix]

    @property
    def paths(self) -> list[str]:
        """Paths of the edited modules."""
        return [matrix.path for matrix in self.matrices]

    @abstractmethod
    def changes(self, gradients: EditGradients, edits: Sequence[Edit]) -> dict[str, MatrixChanges]:
        """The changes of each matrix, by the name of its parameter."""

    def update_statistics(self, gradients: EditGradients) -> None:
        """Add gradients to the running statistics, if the network has any. Only training does."""
