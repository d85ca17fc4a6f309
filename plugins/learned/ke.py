"""The network of KE: a condition read from the edit shapes the gradient (De Cao et al. 2021)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence


class WeightNormLinear(nn.Module):
    """A linear map whose rows have a learned length: ``g * v / |v|``, with a bias."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        start = nn.Linear(n_in, n_out)
        self.v = nn.Parameter(start.weight.detach().clone())  # (out, in)
        self.g = nn.Parameter(self.v.detach().norm(dim=1, keepdim=True))  # (out, 1)
        self.bias = nn.Parameter(start.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        weight = self.g * self.v / self.v.norm(dim=1, keepdim=True)
        return nn.functional.linear(x, weight, self.bias)


class Condition(nn.Module):
    """Texts as vectors: embedding, a bidirectional LSTM's final states, linear, tanh.

    Args:
        embedding: The model's token embeddings, (V, H), of which a copy is used.
        hidden: Width of the LSTM in each direction.
        width: Length of the result.
        train_embedding: Whether the copy is trained, too; else it is not among the parameters.
    """

    embedding: Tensor

    def __init__(
        self, embedding: Tensor, hidden: int, width: int, *, train_embedding: bool
    ) -> None:
        super().__init__()
        table = embedding.detach().float().clone()
        if train_embedding:
            self.embedding = nn.Parameter(table)
        else:
            self.register_buffer("embedding", table, persistent=False)
        self.lstm = nn.LSTM(table.shape[1], hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * hidden, width)

    def forward(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Vectors of token sequences, (N, width)."""
        device = self.embedding.device
        ids = [torch.tensor(list(text), device=device) for text in texts]
        lengths = torch.tensor([len(text) for text in texts])
        vectors = self.embedding[pad_sequence(ids, batch_first=True)]  # (N, T, H)
        packed = pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
        _, (final, _) = self.lstm(packed)  # (2, N, hidden)
        return torch.tanh(self.linear(torch.cat([final[0], final[1]], dim=-1)))


@dataclasses.dataclass(frozen=True)
class Mix:
    """What a gradient is made into, for N edits of one matrix.

    The change is ``scale * (gradient * row_a col_a^T + row_b col_b^T)``, the first product entry by
    entry. A gradient is a sum over tokens of ``outer(x, d)``; taken entry by entry times a rank-one
    matrix it is the sum of ``outer(x * row_a, d * col_a)``. So the change is of low rank, too: that
    of the gradient, and one more.

    Attributes:
        row_a: (N, in), positive, with sum 1.
        col_a: (N, out)
        row_b: (N, in), positive, with sum 1.
        col_b: (N, out)
        scale: (N, 1)
    """

    row_a: Tensor
    col_a: Tensor
    row_b: Tensor
    col_b: Tensor
    scale: Tensor

    def factors(self, x: Tensor, d: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows whose outer products sum to the changes, with the edit of each, ordered by edit.

        Args:
            x: Inputs of the matrix, (R, in).
            d: Gradients of its outputs, (R, out).
            owner: The edit of each row, (R,).

        Returns:
            (R + N, in), (R + N, out), (R + N,)
        """
        edits = torch.arange(len(self.scale), device=owner.device)
        left = torch.cat([x * self.row_a[owner], self.row_b])
        right = torch.cat([d * (self.scale * self.col_a)[owner], self.scale * self.col_b])
        both = torch.cat([owner, edits])
        order = torch.argsort(both, stable=True)
        return left[order], right[order], both[order]


class GradientShaper(nn.Module):
    """From a condition to how the gradient of one matrix is to be changed.

    Args:
        n_in: First size of the matrix, input-major.
        n_out: Second size.
        condition: Length of the condition.
        hidden: Width of the layer between.
    """

    def __init__(self, n_in: int, n_out: int, condition: int, hidden: int) -> None:
        super().__init__()
        self.sizes = [n_out, n_in, n_out, n_in, 1]
        self.first = WeightNormLinear(condition, hidden)
        self.second = WeightNormLinear(hidden, sum(self.sizes))

    def forward(self, condition: Tensor) -> Mix:
        """The mix for each condition, (N, condition), before its largest scale."""
        mixed = self.second(torch.tanh(self.first(condition)))  # (N, 2 (in + out) + 1)
        col_a, row_a, col_b, row_b, s = mixed.split(self.sizes, dim=-1)
        return Mix(
            torch.softmax(row_a, dim=-1), col_a, torch.softmax(row_b, dim=-1), col_b, s.sigmoid()
        )


class KeNetwork(nn.Module):
    """One condition for all matrices, and a shaper for each.

    Args:
        embedding: The model's token embeddings, (V, H).
        shapes: Shape (in, out) of each edited matrix by name.
        hidden: Width of the LSTM and of the shapers.
        condition: Length of the condition.
        max_scale: Largest factor of a change.
        train_embedding: Whether the copy of the embeddings is trained.
    """

    def __init__(
        self,
        embedding: Tensor,
        shapes: Mapping[str, tuple[int, int]],
        *,
        hidden: int,
        condition: int,
        max_scale: float,
        train_embedding: bool = True,
    ) -> None:
        super().__init__()
        self.names = tuple(shapes)
        self.max_scale = max_scale
        self.condition = Condition(embedding, hidden, condition, train_embedding=train_embedding)
        self.shapers = nn.ModuleDict(
            {
                name.replace(".", "_"): GradientShaper(*shape, condition, hidden)
                for name, shape in shapes.items()
            }
        )

    def forward(self, texts: Sequence[Sequence[int]]) -> dict[str, Mix]:
        """How every matrix's gradients are to be changed, by matrix.

        Args:
            texts: The condition of each edit as tokens.
        """
        condition = self.condition(texts)  # (N, condition)
        mixes = {name: self.shapers[name.replace(".", "_")](condition) for name in self.names}
        return {
            name: dataclasses.replace(mix, scale=self.max_scale * mix.scale)
            for name, mix in mixes.items()
        }
