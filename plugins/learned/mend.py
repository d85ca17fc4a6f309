"""The network of MEND: from the gradient's factors to those of an edit (Mitchell et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_EPS = 1e-7


class Normaliser(nn.Module):
    """Running mean and standard deviation of vectors, updated by whoever trains.

    The statistics are buffers, so that they are saved and loaded with the network.

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
        """Take in some vectors, (N, width); Welford's sums for many rows at once."""
        with torch.no_grad():
            n = len(rows)
            if n == 0:
                return
            mean = rows.mean(dim=0)
            squares = (rows - mean).square().sum(dim=0)
            total = self.count + n
            apart = mean - self.mean
            share = (n / total).to(rows.dtype)
            self.squares += squares + apart.square() * (self.count.to(rows.dtype) * share)
            self.mean += apart * share
            self.count.copy_(total)

    def forward(self, rows: Tensor) -> Tensor:
        """The vectors at zero mean and unit deviation, (N, width)."""
        deviation = (self.squares / (self.count - 1).clamp(min=1).to(rows.dtype)).sqrt()
        return (rows - self.mean) / (deviation + _EPS)


class ResidualLayer(nn.Module):
    """``z + relu((U V z + b) * scale[mode] + shift[mode])``, of low rank.

    Args:
        width: Length of z.
        rank: Of U V; at most ``width``.
        modes: How many matrices share the layer; each has its own scale and shift.
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
        """New z, (N, width)."""
        inner = (z @ self.v.T) @ self.u.T + self.bias  # (N, width)
        # All zero at first, where relu has no gradient and nothing would ever be learnt.
        return z + (inner * self.scale[mode] + self.shift[mode]).clamp(min=0)


class GradientTransform(nn.Module):
    """Transforms both factors of the gradient of matrices of one shape.

    The gradient of a linear module's weight is the sum over tokens of ``outer(x, d)``: its input
    and the gradient of its output. It starts as the identity on normalised factors.

    Args:
        n_in: Length of x.
        n_out: Length of d.
        modes: Number of matrices of this shape.
        rank: Rank of the layers.
        layers: Number of residual layers.
        together: Whether x and d go through one network side by side, or through one each.
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

    def observe(self, x: Tensor, d: Tensor) -> None:
        """Take rows into the running statistics; x is (N, in), d is (N, out)."""
        self.inputs.update(x)
        self.gradients.update(d)

    def forward(self, x: Tensor, d: Tensor, mode: int) -> tuple[Tensor, Tensor]:
        """New x and d, (N, in) and (N, out).

        Args:
            x: Inputs of the module, (N, in).
            d: Gradients of its outputs, (N, out).
            mode: Number of the matrix among those of its shape.
        """
        if self.normalise:
            x, d = self.inputs(x), self.gradients(d)
        parts = [torch.cat([x, d], dim=-1)] if len(self.networks) == 1 else [x, d]
        outputs = [
            _through(net, part, mode) for net, part in zip(self.networks, parts, strict=True)
        ]
        z = torch.cat(outputs, dim=-1)  # (N, in + out)
        return z[:, : self.n_in], z[:, self.n_in :]


def _through(layers: Sequence[ResidualLayer], z: Tensor, mode: int) -> Tensor:
    for layer in layers:
        z = layer(z, mode)
    return z
