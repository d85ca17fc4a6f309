"""The value of one request the plain way: whole rows, whole model, logits everywhere.

Slow and simple: what the fast path in ``value.py`` is compared with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from editkit.models import LanguageModel
from editkit.models.encoding import padded
from editkit.models.running import forward, recording, replacing
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.rome.rows import RequestRows
from editkit_plugins.rome.value import Loss, Value


def find_value_plainly(
    model: LanguageModel, request: RequestRows, layer: int, config: RomeConfig
) -> Value:
    """Optimise one request's value; see :func:`editkit_plugins.rome.value.find_values`."""
    rows = request.all
    ids = padded([row.ids for row in rows], model.device)  # (B, T)
    everywhere = torch.arange(len(rows), device=model.device)
    positions = torch.tensor([row.position for row in rows], device=model.device)
    path = model.path(layer, "mlp_out")
    with torch.no_grad(), recording(model, [path]) as seen:
        forward(model, ids)
    keys = seen[path].inputs.reshape(*ids.shape, -1)[everywhere, positions].float()  # (B, D)
    outputs = seen[path].output.reshape(*ids.shape, -1)[everywhere, positions].float()  # (B, H)
    v0 = outputs[0]  # (H,)

    delta = torch.zeros_like(v0, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=config.lr)

    def add_offset(_: Tensor, output: Tensor) -> Tensor:
        shaped = output.reshape(*ids.shape, -1).clone()  # (B, T, H)
        place = (everywhere.to(output.device), positions.to(output.device))
        shaped[place] += delta.to(output.device, output.dtype)
        return shaped.reshape(output.shape)

    losses: list[Loss] = []
    before: Tensor | None = None
    for step in range(config.steps):
        with replacing(model, {path: add_offset}):
            log_p = torch.log_softmax(model.head(forward(model, ids)), dim=-1)  # (B, T, V)
        nll = torch.stack(
            [
                -torch.stack([log_p[b, row.read + j, t] for j, t in enumerate(row.labels)]).mean()
                for b, row in enumerate(request.contexts)
            ]
        ).mean()
        after = log_p[-1, request.essence.read]  # (V,)
        before = after.detach() if before is None else before
        kl = config.kl_factor * (after.exp() * (after - before)).sum()
        decay = config.weight_decay * delta.norm() / v0.norm() ** 2
        total = nll + kl + decay
        losses.append(Loss(*torch.stack([total, nll, kl, decay]).tolist()))
        if losses[-1].total < config.stop_loss or step == config.steps - 1:
            break
        (delta.grad,) = torch.autograd.grad(total, [delta])
        optimiser.step()
        with torch.no_grad():
            radius = config.clamp * v0.norm()
            if delta.norm() > radius:
                delta.mul_(radius / delta.norm())
    return Value(keys[:-1], outputs[:-1], delta.detach(), tuple(losses))
