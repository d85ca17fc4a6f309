"""Functions that add a delta's changes to a linear module's output, for rows of a batch.

``y_b = x_b W + x_b dW_b``: each row gets the change of its own edited model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from editkit.editing.deltas import Change, Dense, LowRank, Rows, WeightDelta
from editkit.models.language_model import LanguageModel
from editkit.models.orientation import is_matrix_module


def is_batchable(model: LanguageModel, delta: WeightDelta) -> bool:
    """Whether all its changes are to weights and biases of linear modules that nothing shares."""
    head = model.hf.get_output_embeddings()
    for name in delta.changes:
        path, _, field = name.rpartition(".")
        module = model.module(path)
        if field not in ("weight", "bias") or not is_matrix_module(module) or module is head:
            return False
    return True


def adding(
    terms: Sequence[Callable[[Tensor, Tensor], Tensor]], n_rows: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """Adds all terms; some models call their MLP on rows and tokens in one dimension."""

    def add(inputs: Tensor, output: Tensor) -> Tensor:
        x = inputs.reshape(n_rows, -1, inputs.shape[-1])  # (B, T, in)
        y = output.reshape(n_rows, -1, output.shape[-1])  # (B, T, out)
        for term in terms:
            y = term(x, y)
        return y.reshape(output.shape)

    return add


def low_rank_term(
    changes: dict[int, LowRank], edits: Sequence[int], device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """Adds ``x_b L_b R_b``, ranks padded with zeros; rows without a change get zeros."""
    rank = max(change.left.shape[1] for change in changes.values())
    sample = next(iter(changes.values()))
    n, d, h = len(changes), sample.left.shape[0], sample.right.shape[1]
    left = torch.zeros(n + 1, d, rank, device=device)  # the last one is zero
    right = torch.zeros(n + 1, rank, h, device=device)
    for place, change in enumerate(changes.values()):
        left[place, :, : change.left.shape[1]] = change.left
        right[place, : change.right.shape[0]] = change.right
    places = {edit: place for place, edit in enumerate(changes)}
    index = torch.tensor([places.get(edit, n) for edit in edits], device=device)  # (B,)

    def add(x: Tensor, y: Tensor) -> Tensor:
        thin = torch.bmm(x, left.to(x.dtype)[index])  # (B, T, r)
        return y + torch.bmm(thin, right.to(x.dtype)[index])  # (B, T, out)

    return add


def single_term(
    change: Change, rows: Tensor, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """Adds one edit's dense or row change, or its bias, to the rows that belong to it."""

    def add(x: Tensor, y: Tensor) -> Tensor:
        if isinstance(change, Rows):
            picked = x[rows][..., change.indices.to(device)]  # (rows, T, n)
            update = picked @ change.values.to(device, x.dtype)
        elif isinstance(change, Dense) and change.values.ndim == 1:
            update = change.values.to(device, x.dtype).expand(len(rows), x.shape[1], -1)
        else:
            update = x[rows] @ change.dense().to(device, x.dtype)  # (rows, T, out)
        return y.index_add(0, rows, update)

    return add
