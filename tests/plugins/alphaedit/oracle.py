"""AlphaEdit's update in its primal form, with numpy alone: P and the inverse are formed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def projector(c: Matrix, threshold: float) -> Matrix:
    """P = U0 U0ᵀ, (D, D), with U0 the eigenvectors of C, (D, D), below the threshold."""
    values, vectors = np.linalg.eigh(c)
    null = vectors[:, values < threshold]
    return null @ null.T


def update(p: Matrix, earlier: Matrix, keys: Matrix, residuals: Matrix, weight: float) -> Matrix:
    """Deltaᵀ, (D, H), from K_0 K_0ᵀ (D, D), K as rows (n, D), and R as rows (n, H)."""
    k = keys.T
    system = p @ (k @ k.T + earlier) + weight * np.eye(len(p))
    solved: Matrix = np.linalg.solve(system, p @ k @ residuals)
    return solved
