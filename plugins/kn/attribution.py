"""Which neurons a prediction rests on: integrated gradients along each layer's activations.

The score of a neuron is ``a / steps * sum over alpha of dP / d(alpha a)``, where ``a`` is its
activation at the prompt's last token and all neurons of its layer are scaled together (Dai et al.
2022, section 3.1). Everything before the last token is computed once, the last token's states
once per layer, and all steps of several prompts share one backward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from editkit.models import LanguageModel
from editkit.models.encoding import padded
from editkit.models.orientation import input_major
from editkit.models.running import Activation, Tail, forward, recording, replacing, run_prefix
from editkit_plugins.kn.config import AttributionConfig
from editkit_plugins.kn.memory import point_bytes, prompts_together

_PROMPTS_PER_PASS = 64


@dataclasses.dataclass(frozen=True)
class Query:
    """A prompt and the tokens that compete for its next place.

    Attributes:
        prompt: Token ids.
        targets: Tokens whose mean probability right after the prompt is attributed; a target of
            several tokens is read at this one place, as in the published code.
    """

    prompt: tuple[int, ...]
    targets: tuple[int, ...]


def alphas(config: AttributionConfig) -> list[float]:
    """The points of the path, ascending."""
    n = config.steps
    if config.alphas == "linspace":
        return [i / (n - 1) for i in range(n)] if n > 1 else [0.0]
    first = 0 if config.alphas == "left" else 1
    return [(first + i) / n for i in range(n)]


def attribute(
    model: LanguageModel, queries: Sequence[Query], config: AttributionConfig
) -> list[Tensor]:
    """Scores of all neurons for each query, (L, D) float32 on the CPU, in units of probability."""
    size = group_size(model, max((len(q.prompt) for q in queries), default=1), config)
    with model.frozen(), torch.enable_grad():
        if config.plain:
            return [attribute_plainly(model, query, config) for query in queries]
        return [
            scores
            for start in range(0, len(queries), size)
            for scores in _attribute_together(model, queries[start : start + size], config)
        ]


def predictions(
    model: LanguageModel, prompts: Sequence[str], chat: bool | Sequence[bool] = False
) -> list[tuple[int, Tensor]]:
    """The most likely token after each prompt, and the probability of all tokens, (V,).

    Args:
        model: The model.
        prompts: Texts up to the answer.
        chat: Whether they are users' turns in a chat; one value for each, or for all.

    Raises:
        RequestError: A prompt cannot be used.
        ModelError: A prompt is longer than the model's context.
    """
    found: list[tuple[int, Tensor]] = []
    encodings = model.read(prompts, chat=chat)
    for encoding in encodings:
        model.check_length(encoding)
    for start in range(0, len(prompts), _PROMPTS_PER_PASS):
        rows = encodings[start : start + _PROMPTS_PER_PASS]
        ends = torch.tensor([len(row) - 1 for row in rows], device=model.device)
        with model.frozen(), torch.no_grad():
            hidden = forward(model, padded([row.ids for row in rows], model.device))  # (B, T, H)
            last = hidden[torch.arange(len(rows), device=hidden.device), ends]  # (B, H)
            probability = torch.softmax(model.head(last), dim=-1).cpu()  # (B, V)
        found += zip(probability.argmax(dim=-1).tolist(), probability, strict=True)
    return found


def group_size(model: LanguageModel, longest: int, config: AttributionConfig) -> int:
    """How many prompts of at most ``longest`` tokens are attributed together."""
    settings = model.hf.config
    sizes = (model.n_layers, model.hidden_size, settings.vocab_size)
    return prompts_together(point_bytes(*sizes, longest, model.dtype.itemsize), config)


def site_path(model: LanguageModel, layer: int, config: AttributionConfig) -> str:
    """The module whose output (before the activation) or input (after it) the neurons are."""
    return model.path(layer, "mlp_in" if config.site == "pre_activation" else "mlp_out")


def effect_of(
    model: LanguageModel, path: str, config: AttributionConfig
) -> Callable[[Tensor], Tensor]:
    """From values of the neurons, (N, D), to the output of the module at ``path``, (N, out)."""
    if config.site == "pre_activation":
        return lambda neurons: neurons
    module = model.module(path)
    weight = input_major(module, module.get_parameter("weight"))  # (D, H)
    bias = getattr(module, "bias", None)
    return lambda neurons: neurons @ weight if bias is None else neurons @ weight + bias


def _attribute_together(
    model: LanguageModel, queries: Sequence[Query], config: AttributionConfig
) -> list[Tensor]:
    layers = range(model.n_layers)
    sites = [site_path(model, layer, config) for layer in layers]
    blocks = [model.architecture.block(layer) for layer in layers]
    points = torch.tensor(alphas(config), device=model.device)  # (S,)
    rows = torch.arange(len(queries)).repeat_interleave(len(points))  # (B S,)
    tail, seen = _last_token(model, [query.prompt for query in queries], [*blocks, *sites])
    tail = tail.select(rows.to(model.device))
    scores = []
    for layer in layers:
        site = seen[sites[layer]]
        own = site.output if config.site == "pre_activation" else site.inputs
        own = own.reshape(len(queries), -1)  # (B, D)
        path = own[:, None] * points.to(own.device, own.dtype)[:, None]  # (B, S, D)
        leaf = path.flatten(0, 1).requires_grad_()  # (B S, D)
        hidden = seen[blocks[layer]].inputs[rows.to(own.device)]  # (B S, 1, H)
        give = effect_of(model, sites[layer], config)
        with replacing(model, {sites[layer]: _putting(give, leaf)}):
            states = tail.above(layer, hidden).run(hidden)[:, 0]  # (B S, H)
        [gradient] = torch.autograd.grad(_total(model, states, queries, len(points)), leaf)
        summed = gradient.float().reshape(path.shape).sum(dim=1)  # (B, D)
        scores.append((own.float() * summed / len(points)).cpu())
    return list(torch.stack(scores, dim=1))  # B x (L, D)


def _last_token(
    model: LanguageModel, prompts: Sequence[tuple[int, ...]], paths: Sequence[str]
) -> tuple[Tail, dict[str, Activation]]:
    """All blocks at the prompts' last token, and what the modules at ``paths`` saw there."""
    # A prompt of one token has nothing before it: a place that nobody looks at stands in for it.
    before = padded([prompt[:-1] or prompt for prompt in prompts], model.device)  # (B, P)
    lengths = torch.tensor([len(prompt) - 1 for prompt in prompts], device=model.device)
    last = torch.tensor([prompt[-1:] for prompt in prompts], device=model.device)  # (B, 1)
    with torch.no_grad():
        prefix, _ = run_prefix(model, before, lengths)
        with recording(model, paths) as seen:
            tail = Tail.record(model, prefix, last, lengths, start=0)
    return tail, seen


def _putting(
    give: Callable[[Tensor], Tensor], neurons: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """Replaces a module's output by what it would be for the given neurons."""
    return lambda _, output: give(neurons.to(output.device)).reshape(output.shape)


def _total(model: LanguageModel, states: Tensor, queries: Sequence[Query], n_points: int) -> Tensor:
    """Sum over all rows of the mean probability of the row's targets."""
    picks = [
        (query * n_points + point, token, 1 / len(each.targets))
        for query, each in enumerate(queries)
        for point in range(n_points)
        for token in each.targets
    ]
    row, token, share = (torch.tensor(column) for column in zip(*picks, strict=True))
    probability = torch.softmax(model.head(model.final_hidden(states)), dim=-1)  # (B S, V)
    device = probability.device
    return (probability[row.to(device), token.to(device)] * share.to(device)).sum()


def attribute_plainly(model: LanguageModel, query: Query, config: AttributionConfig) -> Tensor:
    """The same for one query, (L, D): one layer and one step at a time, whole prompts."""
    ids = torch.tensor([query.prompt], device=model.device)  # (1, T)
    targets = torch.tensor(query.targets, device=model.device)
    points = alphas(config)
    scores = []
    for layer in range(model.n_layers):
        path = site_path(model, layer, config)
        with torch.no_grad(), recording(model, [path], stop=True) as seen:
            forward(model, ids)
        site = seen[path].output if config.site == "pre_activation" else seen[path].inputs
        own = site.reshape(ids.shape[1], -1)[-1]  # (D,)
        give = effect_of(model, path, config)
        summed = torch.zeros_like(own, dtype=torch.float32)
        for alpha in points:
            leaf = (alpha * own)[None].requires_grad_()  # (1, D)
            with replacing(model, {path: _putting_last(give, leaf)}):
                states = forward(model, ids)  # (1, T, H)
            probability = torch.softmax(model.head(states[:, -1]), dim=-1)  # (1, V)
            [gradient] = torch.autograd.grad(probability[0, targets].mean(), leaf)
            summed += gradient[0].float()
        scores.append(own.float() * summed / len(points))
    return torch.stack(scores).cpu()


def _putting_last(
    give: Callable[[Tensor], Tensor], neurons: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """Replaces a module's output at the last token of the only row."""

    def replace(_: Tensor, output: Tensor) -> Tensor:
        rows = output.reshape(-1, output.shape[-1])  # (T, out)
        return torch.cat([rows[:-1], give(neurons.to(output.device))]).reshape(output.shape)

    return replace
