"""Attribution the plain way: one prompt, one layer and one step at a time, whole prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from editkit import LanguageModel
from editkit.models.running import forward, recording, replacing
from editkit_plugins.kn.attribution import Query, alphas, effect_of, neurons_of, site_path
from editkit_plugins.kn.config import AttributionConfig


def attribute_plainly(
    model: LanguageModel, queries: Sequence[Query], config: AttributionConfig
) -> list[Tensor]:
    """What ``attribute`` must give, (L, D) for each query."""
    with model.frozen(), torch.enable_grad():
        return [_scores(model, query, config) for query in queries]


def _scores(model: LanguageModel, query: Query, config: AttributionConfig) -> Tensor:
    ids = torch.tensor([query.prompt], device=model.device)  # (1, T)
    targets = torch.tensor(query.targets, device=model.device)
    points = alphas(config)
    scores = []
    for layer in range(model.n_layers):
        path = site_path(model, layer, config)
        with torch.no_grad(), recording(model, [path], stop=True) as seen:
            forward(model, ids)
        neurons = neurons_of(model, seen[path], config)
        own = neurons.reshape(ids.shape[1], -1)[-1]  # (D,)
        effect = effect_of(model, path, config)
        total = torch.zeros_like(own, dtype=torch.float32)
        for alpha in points:
            leaf = (alpha * own)[None].requires_grad_()  # (1, D)
            with replacing(model, {path: _last_token_set(effect, leaf)}):
                states = forward(model, ids)  # (1, T, H)
            probability = torch.softmax(model.head(states[:, -1]), dim=-1)  # (1, V)
            [gradient] = torch.autograd.grad(probability[0, targets].mean(), leaf)
            total += gradient[0].float()
        scores.append(own.float() * total / len(points))
    return torch.stack(scores).cpu()


def _last_token_set(
    effect: Callable[[Tensor, Tensor], Tensor], neurons: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """Replaces a module's output at the last token of the only row."""

    def replace(_: Tensor, output: Tensor) -> Tensor:
        rows = output.reshape(-1, output.shape[-1])  # (T, out)
        last = effect(neurons.to(output.device), rows[-1:])
        return torch.cat([rows[:-1], last]).reshape(output.shape)

    return replace
