"""The hypernetwork of KE (De Cao et al. 2021, section 4), as re-implemented for GPT models.

A network reads the edit as a text and says how to reshape the gradient of each edited matrix W::

    c = tanh(linear(LSTM(prompt + target)))              ConditionEncoder
    alpha, gamma, beta, delta, eta = MLP(c)              GradientShaper, one per matrix
    A = softmax(alpha) gamma^T                           GradientMix: row_a, col_a
    B = softmax(beta) delta^T                            GradientMix: row_b, col_b
    dW = max_scale * sigmoid(eta) * (grad W * A + B)     GradientMix.factors; * is entry by entry

grad W is the gradient of the edit's loss. Training is shared with MEND:
:mod:`editkit_plugins.learned.training.objective`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from typing_extensions import override

from editkit import LanguageModel
from editkit.editing.gradients import Edit, EditGradients
from editkit_plugins.learned.networks import EditNetwork, Matrix, MatrixChanges
from editkit_plugins.learned.settings import KeSettings


class WeightNormLinear(nn.Module):
    """A linear map with weight normalisation: rows ``g * v / |v|`` of learned length g."""

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


class ConditionEncoder(nn.Module):
    """Encodes texts: embedding, final states of a bidirectional LSTM, linear, tanh.

    Args:
        embedding: The model's token embeddings, (V, H). The encoder uses a copy.
        hidden: Width of the LSTM in each direction.
        width: Length of the condition vector c.
        train_embedding: Whether the copy is a parameter of the network.
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
        """The condition c of each token sequence, (N, width)."""
        device = self.embedding.device
        ids = [torch.tensor(list(text), device=device) for text in texts]
        lengths = torch.tensor([len(text) for text in texts])
        vectors = self.embedding[pad_sequence(ids, batch_first=True)]  # (N, T, H)
        packed = pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
        _, (final, _) = self.lstm(packed)  # (2, N, hidden)
        return torch.tanh(self.linear(torch.cat([final[0], final[1]], dim=-1)))


@dataclasses.dataclass(frozen=True)
class GradientMix:
    """How the gradients of N edits of one matrix are reshaped.

    The change is ``scale * (grad * (row_a col_a^T) + row_b col_b^T)``. A gradient is a sum over
    tokens of ``outer(x, d)``, and ``outer(x, d) * outer(row_a, col_a)`` is
    ``outer(x * row_a, d * col_a)``, so the rank of the change exceeds the gradient's by one.

    Attributes:
        row_a: softmax(alpha), (N, in).
        col_a: gamma, (N, out).
        row_b: softmax(beta), (N, in).
        col_b: delta, (N, out).
        scale: max_scale * sigmoid(eta), (N, 1).
    """

    row_a: Tensor
    col_a: Tensor
    row_b: Tensor
    col_b: Tensor
    scale: Tensor

    def factors(self, x: Tensor, d: Tensor, edit_of_token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors whose outer products sum to the changes, ordered by edit.

        Args:
            x: Inputs of the matrix, (R, in).
            d: Gradients of its outputs, (R, out).
            edit_of_token: The edit of each token, (R,).

        Returns:
            Left factors (R + N, in), right factors (R + N, out), and their edits (R + N,).
        """
        edits = torch.arange(len(self.scale), device=edit_of_token.device)
        left = torch.cat([x * self.row_a[edit_of_token], self.row_b])
        right = torch.cat([d * (self.scale * self.col_a)[edit_of_token], self.scale * self.col_b])
        edit_of_factor = torch.cat([edit_of_token, edits])
        order = torch.argsort(edit_of_factor, stable=True)
        return left[order], right[order], edit_of_factor[order]


class GradientShaper(nn.Module):
    """Maps a condition c to the mix for one matrix, through one hidden layer.

    Args:
        n_in: Input size of the matrix.
        n_out: Output size of the matrix.
        condition: Length of c.
        hidden: Width of the hidden layer.
    """

    def __init__(self, n_in: int, n_out: int, condition: int, hidden: int) -> None:
        super().__init__()
        self.sizes = [n_out, n_in, n_out, n_in, 1]
        self.first = WeightNormLinear(condition, hidden)
        self.second = WeightNormLinear(hidden, sum(self.sizes))

    def forward(self, condition: Tensor) -> GradientMix:
        """The mix for each condition (N, condition); ``scale`` is still without max_scale."""
        mixed = self.second(torch.tanh(self.first(condition)))  # (N, 2 (in + out) + 1)
        col_a, row_a, col_b, row_b, s = mixed.split(self.sizes, dim=-1)
        return GradientMix(
            torch.softmax(row_a, dim=-1), col_a, torch.softmax(row_b, dim=-1), col_b, s.sigmoid()
        )


class KeHypernetwork(nn.Module):
    """One condition encoder for all matrices, and one shaper for each.

    Args:
        embedding: The model's token embeddings, (V, H).
        shapes: Shape (in, out) of each edited matrix by name.
        hidden: Width of the LSTM and of the shapers.
        condition: Length of the condition.
        max_scale: Upper bound of a change's scale.
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
        self.condition = ConditionEncoder(
            embedding, hidden, condition, train_embedding=train_embedding
        )
        self.shapers = nn.ModuleDict(
            {
                name.replace(".", "_"): GradientShaper(*shape, condition, hidden)
                for name, shape in shapes.items()
            }
        )

    def forward(self, texts: Sequence[Sequence[int]]) -> dict[str, GradientMix]:
        """The mix for every matrix by name.

        Args:
            texts: Each edit as tokens.
        """
        condition = self.condition(texts)  # (N, condition)
        mixes = {name: self.shapers[name.replace(".", "_")](condition) for name in self.names}
        return {
            name: dataclasses.replace(mix, scale=self.max_scale * mix.scale)
            for name, mix in mixes.items()
        }


class KeNetwork(EditNetwork):
    """Reshapes the gradient of each matrix with the hypernetwork's mixes."""

    def __init__(
        self, matrices: Sequence[Matrix], settings: KeSettings, model: LanguageModel
    ) -> None:
        super().__init__()
        self.matrices = matrices
        self.network = KeHypernetwork(
            model.hf.get_input_embeddings().weight,
            {matrix.name: matrix.shape for matrix in matrices},
            hidden=settings.hidden,
            condition=settings.condition,
            max_scale=settings.max_scale,
            train_embedding=settings.train_embedding,
        )

    @override
    def changes(self, gradients: EditGradients, edits: Sequence[Edit]) -> dict[str, MatrixChanges]:
        # KE reads prompt and target of the edit's fact, or of all its facts one after another.
        texts = [[token for fact in edit for token in fact.prompt + fact.target] for edit in edits]
        mixes: Mapping[str, GradientMix] = self.network(texts)
        return {
            matrix.name: MatrixChanges.from_factors(
                *mixes[matrix.name].factors(*gradients.factors(matrix.path)), len(edits)
            )
            for matrix in self.matrices
        }
