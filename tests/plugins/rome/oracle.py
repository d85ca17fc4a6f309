"""ROME's value the plain way: whole rows, whole model, logits everywhere, one request at a time.

Slow and simple: what the shared passes of :mod:`editkit.editing.rome_value` are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from editkit import EditRequest, LanguageModel
from editkit.editing.rome_rows import RequestRows, request_rows, sampled_or_given_contexts
from editkit.editing.rome_value import (
    RankOneUpdate,
    Value,
    ValueLoss,
    keys_and_outputs,
    rank_one_update,
)
from editkit.editing.rome_value_config import ValueConfig
from editkit.models.encoding import padded
from editkit.models.running import forward, replacing
from editkit_plugins.rome.editor import RomeEditor


def solve_plainly(
    editor: RomeEditor, model: LanguageModel, requests: Sequence[EditRequest]
) -> list[RankOneUpdate]:
    """What ``editor.solve`` must give."""
    contexts = sampled_or_given_contexts(model, editor.config)
    whitening = editor.whitening(model)
    solve = None if whitening is None else whitening.solve
    updates = []
    for request in requests:
        rows = request_rows(model, request, contexts, editor.config)
        with model.frozen(), torch.enable_grad():
            value = find_value_plainly(model, rows, editor.layer(model), editor.config)
        updates.append(rank_one_update(value, solve, key=editor.config.update_key))
    return updates


def find_value_plainly(
    model: LanguageModel, request: RequestRows, layer: int, config: ValueConfig
) -> Value:
    """What ``find_values`` must give for one request."""
    rows = request.in_loss
    ids = padded([row.ids for row in rows], model.device)  # (B, T)
    everywhere = torch.arange(len(rows), device=model.device)
    positions = torch.tensor([row.position for row in rows], device=model.device)
    path = model.path(layer, "mlp_out")
    keys, outputs = keys_and_outputs(model, [*request.contexts, *request.others], layer)
    v0 = outputs[request.bare]  # (H,)
    own = keys_and_outputs(model, rows, layer)[1]  # (B, H)
    shift = v0 - own if config.offset_from == "bare" else torch.zeros_like(own)  # (B, H)

    delta = torch.zeros_like(v0, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=config.lr)

    def add_offset(_: Tensor, output: Tensor) -> Tensor:
        shaped = output.reshape(*ids.shape, -1).clone()  # (B, T, H)
        place = (everywhere.to(output.device), positions.to(output.device))
        shaped[place] += (delta + shift).to(output.device, output.dtype)
        return shaped.reshape(output.shape)

    with torch.no_grad():
        unchanged = torch.log_softmax(model.head(forward(model, ids)), dim=-1)  # (B, T, V)
    before = unchanged[-1, request.essence.read]  # (V,)
    losses: list[ValueLoss] = []
    for evaluation in range(config.evaluations):
        with replacing(model, {path: add_offset}):
            log_p = torch.log_softmax(model.head(forward(model, ids)), dim=-1)  # (B, T, V)
        of_tokens = [
            -torch.stack([log_p[b, row.read + j, t] for j, t in enumerate(row.labels)])
            for b, row in enumerate(request.contexts)
        ]
        summed = config.target_loss == "sum"
        nll = torch.stack([each.sum() if summed else each.mean() for each in of_tokens]).mean()
        after = log_p[-1, request.essence.read]  # (V,)
        kl = config.kl_factor * (after.exp() * (after - before)).sum()
        decay = config.weight_decay * delta.norm() / v0.norm() ** 2
        total = nll + kl + decay
        losses.append(ValueLoss(*torch.stack([total, nll, kl, decay]).tolist()))
        if losses[-1].total < config.stop_loss or evaluation == config.evaluations - 1:
            break
        (delta.grad,) = torch.autograd.grad(total, [delta])
        optimiser.step()
        with torch.no_grad():
            if config.clamp is not None and delta.norm() > config.clamp * v0.norm():
                delta.mul_(config.clamp * v0.norm() / delta.norm())
    return Value.of(request, keys, outputs, delta.detach(), losses)
