"""Values written at one layer through the MLPs of several: what MEMIT, EMMET and AlphaEdit share.

Meng et al. 2023, *Mass-Editing Memory in a Transformer*, section 4.3. With the edited layers
l_0 < ... < l_(m-1), L the last of them, and n facts:

    z_j   = h_j + delta_j, h the output of block L at the subject's last token; as ROME's value,
            but in the residual stream                        find_values(..., site="block")
    k_j   = average over contexts of the input of an MLP's output projection, at the same
            token                                             average_keys
    r_j   = (z_j - h_j) / (m - i), for i = 0 ... m - 1        spread
    W_i  += Delta_i(K, R), with K = [k_1 ... k_n], R = [r_1 ... r_n]

Layer by layer, K and h are read from the model with the changes of the layers before. The methods
differ in Delta alone: a function that :func:`spread` calls with K and R of each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from editkit.editing.changes import Change, Dense, LowRank
from editkit.editing.deltas import WeightDelta, applied
from editkit.editing.rome_rows import InputRow, RequestRows
from editkit.editing.rome_value import check_block_outputs, keys_and_outputs
from editkit.editing.spreading_config import SpreadingConfig
from editkit.models.encoding import chunks_by_tokens
from editkit.models.language_model import LanguageModel
from editkit.progress import counting

__all__ = ["Update", "average_keys", "block_outputs", "check_layers", "compact", "spread"]

TOKENS_PER_PASS = 8192

Update = Callable[[int, Tensor, Tensor], Change]
"""The change of the i-th layer's weight, from i, the keys (n, D) and the residuals (n, H), both
float32: Delta_i of the method, input-major."""


def check_layers(model: LanguageModel, layers: Sequence[int]) -> None:
    """Refuse layers that values cannot be spread over.

    Raises:
        ModelError: The model does not have one of the layers; it has experts instead of one MLP; or
            the last block does not add the output of the MLP's projection as it is.
    """
    for layer in layers:
        model.path(layer, "mlp_out")
    check_block_outputs(model, layers[-1])


def spread(
    model: LanguageModel,
    requests: Sequence[RequestRows],
    values: Tensor,
    layers: Sequence[int],
    config: SpreadingConfig,
    update: Update,
) -> dict[str, Change]:
    """Move the output of the last layer to a value for each request, with an equal share per layer.

    Args:
        model: The model, including any applied edits; not modified.
        requests: Rows of each request.
        values: z of each request, (n, H).
        layers: The edited blocks, ascending; values are of the last one.
        config: Selects the average of the keys.
        update: The method's change of one layer.

    Returns:
        The change of each layer's weight, by the parameter's name.
    """
    fingerprint = model.fingerprint
    changes: dict[str, Change] = {}
    with counting("spreading values over layers", len(layers), unit="layer") as advance:
        for i, layer in enumerate(layers):
            below = WeightDelta(changes, None, "", {}, fingerprint)
            with applied(model, below):
                keys = average_keys(model, requests, layer, config)  # (n, D)
                now = block_outputs(model, requests, layers[-1])  # (n, H)
            residuals = (values - now) / (len(layers) - i)
            change = update(i, keys, residuals)
            changes = {**changes, f"{model.path(layer, 'mlp_out')}.weight": change}
            advance()
    return changes


def average_keys(
    model: LanguageModel, requests: Sequence[RequestRows], layer: int, config: SpreadingConfig
) -> Tensor:
    """Each request's key k, averaged over its contexts as the configuration states, (n, D).

    Args:
        model: The model, including any applied edits.
        requests: Rows of each request.
        layer: The block.
        config: Selects the average.
    """
    rows = [row for request in requests for row in request.key_rows]
    keys, _ = _read(model, rows, layer)  # (rows, D)
    sizes = [len(request.keys) for request in requests]
    means = []
    for own in torch.split(keys, sizes):
        weights = torch.tensor(config.key_weights(len(own)), device=own.device)  # (contexts,)
        means.append(weights @ own)
    return torch.stack(means)


def block_outputs(model: LanguageModel, requests: Sequence[RequestRows], layer: int) -> Tensor:
    """Output h of a block at the edited token of each request's bare prompt, (n, H).

    Args:
        model: The model, including any applied edits.
        requests: Rows of each request.
        layer: The block.
    """
    _, outputs = _read(model, [request.bare_row for request in requests], layer)
    return outputs


def _read(model: LanguageModel, rows: Sequence[InputRow], layer: int) -> tuple[Tensor, Tensor]:
    """Keys, (rows, D), and outputs of the block, (rows, H), in batches of bounded size."""
    batches = chunks_by_tokens([len(row.ids) for row in rows], TOKENS_PER_PASS)
    read = [keys_and_outputs(model, [rows[i] for i in b], layer, site="block") for b in batches]
    place = torch.tensor([i for batch in batches for i in batch]).argsort()
    keys, outputs = (torch.cat(parts) for parts in zip(*read, strict=True))
    place = place.to(keys.device)
    return keys[place], outputs[place]


def compact(left: Tensor, right: Tensor) -> Change:
    """The change ``left @ right`` in float32, in factors or whole, whichever takes less memory.

    Args:
        left: (D, n)
        right: (n, H)
    """
    (d, n), h = left.shape, right.shape[1]
    if n * (d + h) < d * h:
        return LowRank(left.float().contiguous(), right.float().contiguous())
    return Dense((left.double() @ right.double()).float())
