"""Causal tracing done literally: one forward pass per site, over whole prompts.

The oracle for :mod:`editkit_plugins.tracing.causal_tracing`, and the slow side of its speed cases.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from editkit.models import LanguageModel
from editkit.models.architectures import BlockPart
from editkit.models.running import forward, recording, replacing
from editkit_plugins.tracing.causal_tracing import Probabilities
from editkit_plugins.tracing.config import CausalTracingConfig, Kind
from editkit_plugins.tracing.restored_runs import SEVERED, WINDOWS, window_of
from editkit_plugins.tracing.tokenized_facts import TokenizedFact

Hook = Callable[[Tensor, Tensor], Tensor]
"""Gives a module's new output from its input and output, both (1 + N, T, H)."""


def trace_site_by_site(
    model: LanguageModel,
    fact: TokenizedFact,
    noise: tuple[Tensor, Tensor],
    config: CausalTracingConfig,
    kinds: Sequence[Kind],
) -> Probabilities:
    """The same as :func:`editkit_plugins.tracing.causal_tracing.trace_fact`."""
    with model.frozen(), torch.no_grad():
        p = _probability(model, fact, noise[0], {})
        restored = {
            kind: torch.tensor(
                [
                    [
                        _restored(model, fact, noise, config, kind, token, layer)
                        for layer in range(model.n_layers)
                    ]
                    for token in range(len(fact.prompt))
                ]
            )
            for kind in kinds
        }
        return Probabilities(float(p[0]), float(p[1:].mean()), restored)


def _restored(
    model: LanguageModel,
    fact: TokenizedFact,
    noise: tuple[Tensor, Tensor],
    config: CausalTracingConfig,
    kind: Kind,
    token: int,
    layer: int,
) -> float:
    """P*,h[o] of one site."""

    def clean(_: Tensor, output: Tensor) -> Tensor:
        output = output.clone()
        output[1:, token] = output[0, token]
        return output

    hooks: dict[str, Hook]
    if kind in WINDOWS:
        window = window_of(layer, model.n_layers, config)
        hooks = {_path(model, each, WINDOWS[kind]): clean for each in window}
        return float(_probability(model, fact, noise[0], hooks)[1:].mean())
    block = model.architecture.block(layer)
    if kind == "state":
        return float(_probability(model, fact, noise[0], {block: clean})[1:].mean())
    second = noise[0] if config.severed_noise == "same" else noise[1]
    paths = [_path(model, each, part) for each in range(model.n_layers) for part in SEVERED[kind]]
    shape = (1 + len(noise[0]), len(fact.ids))
    with recording(model, paths) as recorded:
        _probability(model, fact, noise[0], {})

    def severed(corrupted: Tensor) -> Hook:
        def hook(_: Tensor, output: Tensor) -> Tensor:
            output = output.clone()
            output[1:, token] = corrupted[1:, token]
            return output

        return hook

    hooks = {path: severed(recorded[path].output.reshape(*shape, -1)) for path in paths}
    return float(_probability(model, fact, second, {**hooks, block: clean})[1:].mean())


def _path(model: LanguageModel, layer: int, part: BlockPart) -> str:
    """The sublayer's last projection, ahead of any norm; experts have none, so their whole MLP."""
    if part == "mlp_out" and model.architecture.experts is not None:
        return model.path(layer, "mlp")
    return model.path(layer, part)


def _probability(
    model: LanguageModel, fact: TokenizedFact, noise: Tensor, hooks: Mapping[str, Hook]
) -> Tensor:
    """Probability of the answer in the clean run and in every corrupted one, (1 + N,)."""
    ids = torch.tensor([fact.ids] * (1 + len(noise)), device=model.device)  # (1 + N, T + A - 1)
    first, length = len(fact.prompt) - 1, len(fact.answer)
    with _corrupted(model, fact, noise), replacing(model, _by_rows(hooks, ids.shape)):
        logits = model.head(forward(model, ids))  # (1 + N, T + A - 1, V)
    log_p = torch.log_softmax(logits, dim=-1)[:, first : first + length]
    answer = torch.tensor(fact.answer, device=model.device).expand(len(ids), -1)
    return log_p.gather(-1, answer[..., None])[..., 0].sum(dim=-1).exp().double()


def _by_rows(hooks: Mapping[str, Hook], shape: torch.Size) -> dict[str, Hook]:
    """The hooks, for blocks that flatten tokens as well."""

    def by_rows(hook: Hook) -> Hook:
        return lambda inputs, output: hook(inputs, output.reshape(*shape, -1)).reshape(output.shape)

    return {path: by_rows(hook) for path, hook in hooks.items()}


@contextlib.contextmanager
def _corrupted(model: LanguageModel, fact: TokenizedFact, noise: Tensor) -> Iterator[None]:
    first, end = fact.subject

    def corrupt(_: Tensor, embedded: Tensor) -> Tensor:
        embedded = embedded.clone()
        embedded[1:, first:end] += noise.to(embedded)
        return embedded

    with replacing(model, {model.architecture.embedding: corrupt}):
        yield
