"""The value of one request the plain way: whole rows, whole model, logits everywhere.

Slow and simple: what the fast path in ``value.py`` is compared with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from editkit.models import LanguageModel
from editkit.models.encoding import padded
from editkit.models.running import forward, replacing
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.rome.rows import RequestRows
from editkit_plugins.rome.value import (
    Loss,
    Value,
    at_the_edited_token,
    evaluations_of,
    value_of,
)


def find_value_plainly(
    model: LanguageModel, request: RequestRows, layer: int, config: RomeConfig
) -> Value:
    """Optimise one request's value; see :func:`editkit_plugins.rome.value.find_values`."""
    rows = request.all
    ids = padded([row.ids for row in rows], model.device)  # (B, T)
    everywhere = torch.arange(len(rows), device=model.device)
    positions = torch.tensor([row.position for row in rows], device=model.device)
    path = model.path(layer, "mlp_out")
    keys, outputs = at_the_edited_token(model, [*request.contexts, *request.others], layer)
    v0 = outputs[request.bare]  # (H,)
    own = at_the_edited_token(model, rows, layer)[1]  # (B, H)
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
    losses: list[Loss] = []
    evaluations = evaluations_of(config)
    for step in range(evaluations):
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
        losses.append(Loss(*torch.stack([total, nll, kl, decay]).tolist()))
        if losses[-1].total < config.stop_loss or step == evaluations - 1:
            break
        (delta.grad,) = torch.autograd.grad(total, [delta])
        optimiser.step()
        with torch.no_grad():
            if config.clamp is not None and delta.norm() > config.clamp * v0.norm():
                delta.mul_(config.clamp * v0.norm() / delta.norm())
    return value_of(request, keys, outputs, delta.detach(), losses)
