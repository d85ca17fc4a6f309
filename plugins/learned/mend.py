"""The network of MEND (Mitchell et al. 2022).

Section 3.1: the gradient of a weight W is a sum of rank-one matrices over tokens, and MEND maps
the factors of each of them, the input u and the output gradient delta, to new factors::

    z = [u; delta], both normalised                      Normaliser
    h = z + relu(s1 * (U1 V1 z + b1) + o1)               ResidualLayer, the first
    g(z) = h + relu(s2 * (U2 V2 h + b2) + o2)            ResidualLayer, the second
    [u'; delta'] = g(z)                                  GradientTransform
    W' = W - alpha * sum over tokens of delta' u'^T      MendNetwork.changes

U and V are shared by all matrices of one shape; the scales s and offsets o belong to one matrix,
alpha is a learned rate per matrix. The published code has ``+ alpha`` (setting ``sign``). Section
3.2 trains the network: :mod:`editkit_plugins.learned.training.objective`.

In the code, x is u and d is delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from editkit.editing.gradients import Edit, EditGradients
from editkit_plugins.learned.networks import EditNetwork, Matrix, MatrixChanges
from editkit_plugins.learned.settings import MendSettings

_EPS = 1e-7


class Normaliser(nn.Module):
    """Scales vectors to zero mean and unit standard deviation, by running statistics.

    The statistics are buffers, so they are saved and loaded with the network.

    Args:
        width: Length of the vectors.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("squares", torch.zeros(width))  # sum of squared deviations

    def update(self, rows: Tensor) -> None:
        """Add vectors (N, width) to the statistics, with Welford's method for whole batches."""
        with torch.no_grad():
            n = len(rows)
            if n == 0:
                return
            mean = rows.mean(dim=0)
            squares = (rows - mean).square().sum(dim=0)
            total = self.count + n
            difference = mean - self.mean
            share = (n / total).to(rows.dtype)
            self.squares += squares + difference.square() * (self.count.to(rows.dtype) * share)
            self.mean += difference * share
            self.count.copy_(total)

    def forward(self, rows: Tensor) -> Tensor:
        """Normalised vectors, (N, width)."""
        deviation = (self.squares / (self.count - 1).clamp(min=1).to(rows.dtype)).sqrt()
        return (rows - self.mean) / (deviation + _EPS)


class ResidualLayer(nn.Module):
    """``z + relu((U V z + b) * scale[mode] + shift[mode])``, with U V of low rank.

    Args:
        width: Length of z.
        rank: Rank of U V, capped at ``width``.
        modes: Number of matrices that share the layer; each has its own scale and shift.
    """

    def __init__(self, width: int, rank: int, modes: int) -> None:
        super().__init__()
        rank = min(rank, width)
        self.u = nn.Parameter(torch.zeros(width, rank))
        self.v = nn.Parameter(torch.randn(rank, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(modes, width))
        self.shift = nn.Parameter(torch.zeros(modes, width))

    def forward(self, z: Tensor, mode: int) -> Tensor:
        """The new z, (N, width)."""
        inner = (z @ self.v.T) @ self.u.T + self.bias  # (N, width)
        # U starts at zero, where relu passes no gradient and nothing would be learned. clamp does.
        return z + (inner * self.scale[mode] + self.shift[mode]).clamp(min=0)


class GradientTransform(nn.Module):
    """g: transforms both factors of the gradients of matrices of one shape.

    A new transform is the identity on normalised factors.

    Args:
        n_in: Length of x.
        n_out: Length of d.
        modes: Number of matrices of this shape.
        rank: Rank of the layers.
        layers: Number of residual layers.
        together: Whether x and d share one network, side by side, or have one each.
        normalise: Whether x and d are normalised first.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        modes: int,
        *,
        rank: int = 1920,
        layers: int = 2,
        together: bool = True,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        self.n_in = n_in
        self.normalise = normalise
        self.inputs = Normaliser(n_in)
        self.gradients = Normaliser(n_out)
        widths = [n_in + n_out] if together else [n_in, n_out]
        self.networks = nn.ModuleList(
            nn.ModuleList(ResidualLayer(width, rank, modes) for _ in range(layers))
            for width in widths
        )

    def update_statistics(self, x: Tensor, d: Tensor) -> None:
        """Add x (N, in) and d (N, out) to the running statistics."""
        self.inputs.update(x)
        self.gradients.update(d)

    def forward(self, x: Tensor, d: Tensor, mode: int) -> tuple[Tensor, Tensor]:
        """The new factors, (N, in) and (N, out).

        Args:
            x: Inputs of the module, (N, in).
            d: Gradients of its outputs, (N, out).
            mode: Index of the matrix among those of its shape.
        """
        if self.normalise:
            x, d = self.inputs(x), self.gradients(d)
        parts = [torch.cat([x, d], dim=-1)] if len(self.networks) == 1 else [x, d]
        for i, layers in enumerate(self.networks):
            for layer in cast(nn.ModuleList, layers):
                parts[i] = layer(parts[i], mode)
        z = torch.cat(parts, dim=-1)  # (N, in + out)
        return z[:, : self.n_in], z[:, self.n_in :]


class MendNetwork(EditNetwork):
    """One transform for all matrices of a shape, and a learned rate alpha for each matrix."""

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
    def update_statistics(self, gradients: EditGradients) -> None:
        for matrix in self.matrices:
            x, d, _ = gradients.factors(matrix.path)
            self._transform(matrix).update_statistics(x, d)

    @override
    def changes(self, gradients: EditGradients, edits: Sequence[Edit]) -> dict[str, MatrixChanges]:
        result: dict[str, MatrixChanges] = {}
        for matrix, rate in zip(self.matrices, self.rates, strict=True):
            x, d, edit_of_token = gradients.factors(matrix.path)
            x, d = self._transform(matrix)(x, d, matrix.mode)
            result[matrix.name] = MatrixChanges.from_factors(
                x, self.sign * rate * d, edit_of_token, len(edits)
            )
        return result

    def _transform(self, matrix: Matrix) -> GradientTransform:
        return cast(GradientTransform, self.transforms[_key(matrix.shape)])


def _key(shape: tuple[int, int]) -> str:
    """Name of a shape's transform in the saved network."""
    return f"{shape[0]}x{shape[1]}"
