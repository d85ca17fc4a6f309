"""The terms ``x_b dW_b`` of a batch where each row has its own change of a linear module's weights.

A change of rank r of a (D, H) weight costs r (D + H) products for each token, a dense one D H:

- low-rank changes of single rows share one batched product, padded to the largest rank;
- a change that several edited models share is one product over all of its rows, without a copy for
  each row, and without a copy of the inputs if it applies to the whole batch;
- a change of rank above D H / (D + H) is multiplied out before (:func:`.deltas.compacted`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from editkit.editing.changes import Change, LowRank, Rows

__all__ = ["Term", "adding", "terms_of"]

Term = Callable[[Tensor, Tensor], Tensor]
"""Maps a module's input (B, T, in) and output (B, T, out) to the output plus a term."""


def adding(terms: Sequence[Term], n_rows: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Adds all terms; some models flatten rows and tokens before they call the MLP."""

    def add(inputs: Tensor, output: Tensor) -> Tensor:
        x = inputs.reshape(n_rows, -1, inputs.shape[-1])  # (B, T, in)
        y = output.reshape(n_rows, -1, output.shape[-1])  # (B, T, out)
        for term in terms:
            y = term(x, y)
        return y.reshape(output.shape)

    return add


def terms_of(
    changes: Sequence[Change | None], shared: Collection[int], device: torch.device
) -> list[Term]:
    """Terms that add a parameter's changes: ``changes[b]`` to row b, None for no change.

    Args:
        changes: A change per row; rows of one edit have the same object.
        shared: Identities (``id``) of changes that several edited models have in common.
        device: Device of the module.
    """
    rows: dict[int, list[int]] = {}  # keyed by identity: rows with the same delta share its changes
    for row, change in enumerate(changes):
        if change is not None:
            rows.setdefault(id(change), []).append(row)
    distinct = {id(change): change for change in changes if change is not None}
    alone = [c for key, c in distinct.items() if isinstance(c, LowRank) and key not in shared]
    terms: list[Term] = []
    if alone:
        places = {id(change): place for place, change in enumerate(alone)}
        index = [places.get(id(change), len(alone)) for change in changes]
        terms.append(_batched_term(alone, index, device))
    for key, change in distinct.items():
        if not isinstance(change, LowRank) or key in shared:
            everyone = len(rows[key]) == len(changes)
            its_rows = None if everyone else torch.tensor(rows[key], device=device)
            terms.append(_single_term(change, its_rows, device))
    return terms


def _batched_term(changes: Sequence[LowRank], index: Sequence[int], device: torch.device) -> Term:
    """Adds ``x_b L_i R_i``, i = ``index[b]``, or zero if i equals the number of changes."""
    n, rank = len(changes), max(change.left.shape[1] for change in changes)
    d, h = changes[0].left.shape[0], changes[0].right.shape[1]
    shared = n == 1 and not any(index)  # one delta for all rows
    left = torch.zeros(n + (not shared), d, rank, device=device)  # ranks padded with zeros
    right = torch.zeros(n + (not shared), rank, h, device=device)  # the last change is zero
    for place, change in enumerate(changes):
        left[place, :, : change.left.shape[1]] = change.left
        right[place, : change.right.shape[0]] = change.right
    rows = torch.tensor(index, device=device)  # (B,)

    def of_rows(factor: Tensor) -> Tensor:
        return factor.expand(len(index), -1, -1) if shared else factor[rows]

    def add(x: Tensor, y: Tensor) -> Tensor:
        thin = torch.bmm(x, of_rows(left.to(x.dtype)))  # (B, T, r)
        return y + torch.bmm(thin, of_rows(right.to(x.dtype)))  # (B, T, out)

    return add


def _single_term(change: Change, rows: Tensor | None, device: torch.device) -> Term:
    """Adds one change to the rows that share it; None: to all rows."""

    def update(x: Tensor) -> Tensor:
        if isinstance(change, LowRank):
            thin = x @ change.left.to(device, x.dtype)  # (rows, T, r)
            return thin @ change.right.to(device, x.dtype)
        if isinstance(change, Rows):
            picked = x[..., change.indices.to(device)]  # (rows, T, n)
            return picked @ change.values.to(device, x.dtype)
        values = change.dense().to(device, x.dtype)
        if values.ndim == 1:
            return values.expand(*x.shape[:2], -1)
        return x @ values  # (rows, T, out)

    def add(x: Tensor, y: Tensor) -> Tensor:
        if rows is None:
            return y + update(x)
        return y.index_add(0, rows, update(x[rows]))

    return add
