"""KE and MEND behind one face: from the signals of some edits to the change of each matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from editkit import LanguageModel, LowRank
from editkit_plugins.learned.ke import KeNetwork, Mix
from editkit_plugins.learned.matrices import Matrix
from editkit_plugins.learned.mend import GradientTransform
from editkit_plugins.learned.settings import KeSettings, MendSettings
from editkit_plugins.learned.signals import Edit, Signals


class Changes:
    """The changes of one matrix by several edits, padded with zeros to one rank.

    Args:
        left: (E, in, R)
        right: (E, R, out)
        ranks: Rank of each edit.
    """

    def __init__(self, left: Tensor, right: Tensor, ranks: Sequence[int]) -> None:
        self.left, self.right, self.ranks = left, right, ranks

    @classmethod
    def of_rows(cls, x: Tensor, d: Tensor, owner: Tensor, n_edits: int) -> Changes:
        """Sums of outer products.

        Args:
            x: (N, in)
            d: (N, out)
            owner: The edit of each row, (N,), in ascending order.
            n_edits: Number of edits.
        """
        ranks = torch.bincount(owner, minlength=n_edits)  # (E,)
        place = torch.arange(len(owner), device=owner.device) - (ranks.cumsum(0) - ranks)[owner]
        widest = int(ranks.max()) if len(owner) else 0
        left = x.new_zeros(n_edits, widest, x.shape[-1]).index_put((owner, place), x)  # (E, R, in)
        right = d.new_zeros(n_edits, widest, d.shape[-1]).index_put((owner, place), d)
        return cls(left.transpose(1, 2), right, ranks.tolist())

    def applied(self, x: Tensor, owner: Tensor) -> Tensor:
        """What is added to the module's output, (B, T, out).

        Args:
            x: Inputs, (B, T, in).
            owner: The edit that each row sees, (B,).
        """
        return (x @ self.left[owner]) @ self.right[owner]

    def of(self, edit: int) -> LowRank:
        """The change of one edit."""
        rank = self.ranks[edit]
        return LowRank(self.left[edit, :, :rank].contiguous(), self.right[edit, :rank].contiguous())


class EditNetwork(nn.Module, ABC):
    """A trained editor's network.

    Attributes:
        matrices: The weights that it changes.
    """

    matrices: Sequence[Matrix]

    @abstractmethod
    def changes(self, found: Signals, edits: Sequence[Edit]) -> dict[str, Changes]:
        """The changes of every matrix by its parameter's name."""

    def observe(self, found: Signals) -> None:
        """Take signals into running statistics; only training does."""


class MendNetwork(EditNetwork):
    """MEND: one transform for all matrices of a shape, and a learned rate for each matrix."""

    def __init__(self, matrices: Sequence[Matrix], settings: MendSettings) -> None:
        super().__init__()
        self.matrices = matrices
        self.sign = 1.0 if settings.sign == "plus" else -1.0
        self.rates = nn.Parameter(torch.full((len(matrices),), settings.initial_rate))
        shapes = dict.fromkeys(matrix.shape for matrix in matrices)
        self.transforms = nn.ModuleDict(
            {
                _key(shape): GradientTransform(
                    *shape,
                    sum(matrix.shape == shape for matrix in matrices),
                    rank=settings.rank,
                    layers=settings.layers,
                )
                for shape in shapes
            }
        )

    @override
    def observe(self, found: Signals) -> None:
        for matrix in self.matrices:
            x, d, _ = found.rows(matrix.path)
            self.transforms[_key(matrix.shape)].observe(x, d)

    @override
    def changes(self, found: Signals, edits: Sequence[Edit]) -> dict[str, Changes]:
        result: dict[str, Changes] = {}
        for matrix, rate in zip(self.matrices, self.rates, strict=True):
            x, d, owner = found.rows(matrix.path)
            x, d = self.transforms[_key(matrix.shape)](x, d, matrix.mode)
            result[matrix.name] = Changes.of_rows(x, self.sign * rate * d, owner, len(edits))
        return result


class KeEditNetwork(EditNetwork):
    """KE: every matrix's gradient, shaped by what is to be written."""

    def __init__(
        self, matrices: Sequence[Matrix], settings: KeSettings, model: LanguageModel
    ) -> None:
        super().__init__()
        self.matrices = matrices
        self.network = KeNetwork(
            model.hf.get_input_embeddings().weight,
            {matrix.name: matrix.shape for matrix in matrices},
            hidden=settings.hidden,
            condition=settings.condition,
            max_scale=settings.max_scale,
            train_embedding=settings.train_embedding,
        )

    @override
    def changes(self, found: Signals, edits: Sequence[Edit]) -> dict[str, Changes]:
        mixes: Mapping[str, Mix] = self.network([condition_of(edit) for edit in edits])
        return {
            matrix.name: Changes.of_rows(
                *mixes[matrix.name].factors(*found.rows(matrix.path)), len(edits)
            )
            for matrix in self.matrices
        }


def condition_of(edit: Edit) -> tuple[int, ...]:
    """The text that KE reads: prompt and target of the only fact, or of all facts in turn."""
    return tuple(token for fact in edit for token in fact.prompt + fact.target)


def make_network(
    model: LanguageModel, matrices: Sequence[Matrix], settings: MendSettings | KeSettings
) -> EditNetwork:
    """The network that the settings describe, with new weights, on the model's device."""
    if isinstance(settings, MendSettings):
        return MendNetwork(matrices, settings).to(model.device)
    return KeEditNetwork(matrices, settings, model).to(model.device)


def _key(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
