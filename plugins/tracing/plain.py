"""Causal tracing the plain way: one site a forward pass, whole prompts, logits at every token."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from editkit.models import LanguageModel
from editkit.models.running import forward, recording, replacing
from editkit_plugins.tracing.config import CausalTracingConfig, Kind
from editkit_plugins.tracing.engine import Finding
from editkit_plugins.tracing.questions import Question
from editkit_plugins.tracing.tracks import SEVERED, WINDOWS, window_of

Change = Callable[[Tensor, Tensor], Tensor]


def trace_plainly(
    model: LanguageModel,
    question: Question,
    noise: tuple[Tensor, Tensor],
    config: CausalTracingConfig,
    kinds: Sequence[Kind],
) -> Finding:
    """The same as :func:`editkit_plugins.tracing.engine.trace`."""
    with model.frozen(), torch.no_grad():
        base = _probability(model, question, noise[0], {})
        n_layers, n_tokens = model.n_layers, len(question.prompt)
        restored = {
            kind: torch.tensor(
                [
                    [
                        _site(model, question, noise, config, kind, token, layer)
                        for layer in range(n_layers)
                    ]
                    for token in range(n_tokens)
                ]
            )
            for kind in kinds
        }
        return Finding(float(base[0]), float(base[1:].mean()), restored)


def _site(
    model: LanguageModel,
    question: Question,
    noise: tuple[Tensor, Tensor],
    config: CausalTracingConfig,
    kind: Kind,
    token: int,
    layer: int,
) -> float:
    restore = _restoring(token)
    block = model.architecture.block(layer)
    if kind in WINDOWS:
        window = window_of(layer, model.n_layers, config)
        changes: dict[str, Change] = {model.path(each, WINDOWS[kind]): restore for each in window}
        return float(_probability(model, question, noise[0], changes)[1:].mean())
    if kind == "state":
        return float(_probability(model, question, noise[0], {block: restore})[1:].mean())
    second = noise[0] if config.severed_noise == "same" else noise[1]
    paths = [model.path(each, part) for each in range(model.n_layers) for part in SEVERED[kind]]
    shape = (1 + len(noise[0]), len(question.ids))
    with recording(model, paths) as seen:
        _probability(model, question, noise[0], {})
    changes = {path: _freezing(token, seen[path].output.reshape(*shape, -1)) for path in paths}
    return float(_probability(model, question, second, {**changes, block: restore})[1:].mean())


def _restoring(token: int) -> Change:
    def change(_: Tensor, output: Tensor) -> Tensor:
        rows = output.clone()
        rows[1:, token] = rows[0, token]
        return rows

    return change


def _freezing(token: int, values: Tensor) -> Change:
    def change(_: Tensor, output: Tensor) -> Tensor:
        rows = output.clone()
        rows[1:, token] = values[1:, token]
        return rows

    return change


def _probability(
    model: LanguageModel, question: Question, noise: Tensor, changes: Mapping[str, Change]
) -> Tensor:
    """Probability of the answer in the clean run and in every corrupted one, (1 + N,)."""
    ids = torch.tensor([question.ids] * (1 + len(noise)), device=model.device)  # (1 + N, T)
    first, length = len(question.prompt) - 1, len(question.answer)
    with _corrupted(model, question, noise), replacing(model, _by_rows(changes, ids.shape)):
        logits = model.head(forward(model, ids))  # (1 + N, T, V)
    log_p = torch.log_softmax(logits, dim=-1)[:, first : first + length]
    wanted = torch.tensor(question.answer, device=model.device).expand(len(ids), -1)
    return log_p.gather(-1, wanted[..., None])[..., 0].sum(dim=-1).exp().double()


def _by_rows(changes: Mapping[str, Change], shape: torch.Size) -> dict[str, Change]:
    """The changes for blocks that flatten tokens, too."""

    def flat(change: Change) -> Change:
        return lambda inputs, output: change(inputs, output.reshape(*shape, -1)).reshape(
            output.shape
        )

    return {path: flat(change) for path, change in changes.items()}


@contextlib.contextmanager
def _corrupted(model: LanguageModel, question: Question, noise: Tensor) -> Iterator[None]:
    first, end = question.subject

    def corrupt(_: Tensor, embedded: Tensor) -> Tensor:
        embedded = embedded.clone()
        embedded[1:, first:end] += noise.to(embedded)
        return embedded

    with replacing(model, {model.architecture.embedding: corrupt}):
        yield
