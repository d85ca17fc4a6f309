"""The null space of the keys of a corpus, and the update that stays in it.

With the keys K, (D, n), and the residuals R, (H, n), of the new facts of one layer, the keys
K_0, (D, N), of all earlier facts, and C = E[k kᵀ] over a corpus:

    C = U S Uᵀ,  B = columns of U with S >= threshold          kept_basis
    P = I - B Bᵀ                                               projected
    Delta = R Kᵀ P (K_0 K_0ᵀ P + K Kᵀ P + lambda I)⁻¹          null_space_update

P maps a key to its part in the approximate null space of C, so that Delta k = 0 for each key k in
the span of B. Delta has the same value in two other forms. With A = [K_0 K], and E the last n of
the N + n columns of the identity matrix,

    Deltaᵀ = P (P A Aᵀ P + lambda I)⁻¹ P K Rᵀ                  D x D, symmetric
           = P A (Aᵀ P A + lambda I)⁻¹ E Rᵀ                    (N + n) x (N + n)

The smaller of the two systems is solved, in float64 by a Cholesky factor. P is never formed.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from editkit.covariance.second_moment import SecondMoment
from editkit.editing.changes import Change
from editkit.editing.spreading import compact
from editkit.storage.cache import cached_tensors
from editkit.storage.digests import digest_of_tensors


@dataclasses.dataclass(frozen=True)
class EarlierKeys:
    """The keys of all earlier facts at one layer: as they are, or summed once there are many.

    Attributes:
        keys: One key per row, (N, D), float32; None once there are more than D.
        total: The sum of their products K_0 K_0ᵀ, (D, D), float64; None while there are keys.
    """

    keys: Tensor | None = None
    total: Tensor | None = None

    def __len__(self) -> int:
        """Number of keys that are kept one by one."""
        return 0 if self.keys is None else len(self.keys)

    def products(self) -> Tensor | float:
        """K_0 K_0ᵀ, (D, D), float64; 0 if there are no keys."""
        if self.keys is not None:
            return self.keys.double().T @ self.keys.double()
        return 0.0 if self.total is None else self.total

    def with_more(self, keys: Tensor) -> EarlierKeys:
        """Add keys, (n, D)."""
        keys = keys.float().cpu()
        if self.total is None:
            together = keys if self.keys is None else torch.cat([self.keys, keys])  # (N + n, D)
            if len(together) <= together.shape[1]:
                return EarlierKeys(together)
            return EarlierKeys(total=together.double().T @ together.double())
        return EarlierKeys(total=self.total + keys.double().T @ keys.double())


def kept_basis(moment: SecondMoment, threshold: float) -> Tensor:
    """B: an orthonormal basis of the directions that the corpus uses, (D, kept), float64; cached.

    Args:
        moment: C.
        threshold: Least eigenvalue of a direction that is kept as it is.
    """

    def make() -> dict[str, Tensor]:
        values, vectors = torch.linalg.eigh(moment.matrix.double())  # ascending
        return {"basis": vectors[:, values >= threshold].contiguous()}

    described = {"of": digest_of_tensors({"matrix": moment.matrix}), "threshold": threshold}
    return cached_tensors("kept_basis", described, make)["basis"]


def projected(basis: Tensor, columns: Tensor) -> Tensor:
    """P times columns, (D, n), float64.

    Args:
        basis: B, (D, kept); P is the identity if it has no columns.
        columns: (D, n)
    """
    return columns - basis @ (basis.T @ columns)


def null_space_update(
    basis: Tensor, earlier: EarlierKeys, keys: Tensor, residuals: Tensor, weight: float
) -> Change:
    """Delta, input-major: the change of the layer's weight in the null space.

    Args:
        basis: B, (D, kept), float64.
        earlier: K_0.
        keys: K, one key per row, (n, D).
        residuals: R, likewise, (n, H).
        weight: lambda; above 0.
    """
    k = projected(basis, keys.double().cpu().T)  # (D, n)
    d, n = k.shape
    if earlier.total is None and len(earlier) + n < d:
        a = k
        if earlier.keys is not None:
            a = torch.cat([projected(basis, earlier.keys.double().T), k], dim=1)  # (D, N + n)
        last = torch.eye(a.shape[1], dtype=a.dtype)[:, -n:]  # (N + n, n)
        left = a @ _solved(a.T @ a, weight, last)  # (D, n)
    else:
        total = earlier.products()
        if isinstance(total, Tensor):
            total = projected(basis, projected(basis, total).T)
        left = _solved(total + k @ k.T, weight, k)
    left = projected(basis, left)  # removes rounding
    return compact(left.to(keys.device), residuals.double())


def _solved(matrix: Tensor, weight: float, columns: Tensor) -> Tensor:
    """(matrix + weight I)⁻¹ columns, for a symmetric matrix without negative eigenvalues."""
    matrix = matrix.clone()
    matrix.diagonal().add_(weight)
    return torch.cholesky_solve(columns, torch.linalg.cholesky(matrix))
