"""Changes of a linear map that fit new keys and disturb the keys of a corpus least.

With the new keys K, (D, n), the residuals R, (H, n), and A, (D, D), which weighs directions by how
much the keys of the corpus use them:

    Delta = argmin |Delta K - R|² + weight · tr(Delta A Deltaᵀ)
          = R Kᵀ (weight · A + K Kᵀ)⁻¹
          = R (weight · I + Kᵀ A⁻¹ K)⁻¹ Kᵀ A⁻¹

The second line inverts a D x D matrix, the third an n x n matrix; :func:`least_squares` takes the
smaller one. Everything is solved in float64 by Cholesky factors; no inverse is formed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from editkit.covariance.second_moment import Whitening
from editkit.editing.changes import Change, Dense
from editkit.editing.spreading import compact

__all__ = ["least_squares"]


def least_squares(a: Whitening, keys: Tensor, residuals: Tensor, weight: float) -> Change:
    """Delta, input-major: in factors of rank n if these are smaller.

    Args:
        a: The factor of A.
        keys: K, one key per row, (n, D).
        residuals: R, likewise, (n, H).
        weight: Of A against the new keys; above 0.
    """
    device = keys.device
    k, r = keys.double().cpu().T, residuals.double().cpu()  # (D, n), (n, H)
    if k.shape[1] < k.shape[0]:
        s = torch.cholesky_solve(k, a.factor)  # A⁻¹ K, (D, n)
        inner = k.T @ s  # (n, n)
        inner.diagonal().add_(weight)
        left = torch.cholesky_solve(s.T, torch.linalg.cholesky(inner)).T  # (D, n)
        return compact(left.to(device), r.to(device))
    outer = weight * a.matrix() + k @ k.T  # (D, D)
    delta = torch.cholesky_solve(k @ r, torch.linalg.cholesky(outer))  # (D, H)
    return Dense(delta.float().to(device))
