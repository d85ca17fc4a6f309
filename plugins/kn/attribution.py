"""From a prompt to the neurons that express its fact (Dai et al. 2022, section 3).

With a_j the activation of neuron j at the prompt's last token, y the target, and all neurons of a
layer scaled together:

    Attr(j) = a_j / m · sum_k dP[y | x, a := α_k a] / da_j    integrated gradients over m points α_k
                                                              in [0, 1]: alphas, attribute
    coarse:  { j : Attr(j) > t · max Attr }                   neurons_above_threshold
    refined: neurons in the coarse sets of more than a share p of several prompts of the fact
                                                              refined_neurons

Everything before the last token is computed once, the last token's states once per layer, and all
points of several prompts share one backward pass.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from editkit.editing.target_loss import TargetLoss
from editkit.models import Completion, LanguageModel
from editkit.models.encoding import padded
from editkit.models.running import Activation, Tail, forward, recording, replacing, run_prefix
from editkit.models.weight_layout import input_major
from editkit.progress import counting
from editkit_plugins.kn.config import AttributionConfig, KnConfig

_PROMPTS_PER_PASS = 64
_P_STEP = 0.05

Neuron = tuple[int, int]
"""Layer and number of a neuron, from 0."""


@dataclasses.dataclass(frozen=True)
class Query:
    """A prompt and the tokens that are attributed.

    Attributes:
        prompt: Token ids.
        targets: Tokens whose mean probability right after the prompt is attributed; a target of
            several tokens is read at this one place, as in the published code.
    """

    prompt: tuple[int, ...]
    targets: tuple[int, ...]


# ---------------------------------------------------------------- prompts and targets


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
    answers: list[tuple[int, Tensor]] = []
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
        answers += zip(probability.argmax(dim=-1).tolist(), probability, strict=True)
    return answers


def target_tokens(
    model: LanguageModel,
    prompt: str,
    target: str,
    config: AttributionConfig,
    *,
    separator: str | None = None,
    chat: bool = False,
) -> tuple[int, ...]:
    """Tokens of a target after a prompt; without ``target_space``, of the target on its own.

    Args:
        model: The model whose tokenizer is used.
        prompt: The prompt.
        target: The target.
        config: Its ``target_space``.
        separator: Text between prompt and target; None: the default rule.
        chat: Whether the prompt is a user's turn in a chat.

    Raises:
        RequestError: A text cannot be used.
    """
    if config.target_space:
        [completion] = model.complete([prompt], [target], separators=separator, chat=chat)
        return completion.target
    return model.alone(target, after=prompt, separator="")


# ---------------------------------------------------------------- integrated gradients


def alphas(config: AttributionConfig) -> list[float]:
    """The points α_k of the path, ascending."""
    n = config.steps
    if config.alphas == "linspace":
        return [i / (n - 1) for i in range(n)] if n > 1 else [0.0]
    first = 0 if config.alphas == "left" else 1
    return [(first + i) / n for i in range(n)]


def attribute(
    model: LanguageModel, queries: Sequence[Query], config: AttributionConfig
) -> list[Tensor]:
    """Attr of all neurons for each query, (L, D) float32 on the CPU, in units of probability."""
    longest = max((len(query.prompt) for query in queries), default=1)
    sizes = (model.n_layers, model.hidden_size, model.hf.config.vocab_size)
    size = prompts_together(point_bytes(*sizes, longest, model.dtype.itemsize), config)
    total = len(queries) * model.n_layers
    with (
        model.frozen(),
        torch.enable_grad(),
        counting("attributing to neurons", total, unit="layer") as advance,
    ):
        return [
            scores
            for start in range(0, len(queries), size)
            for scores in _attribute_together(model, queries[start : start + size], config, advance)
        ]


def point_bytes(layers: int, hidden: int, vocabulary: int, tokens: int, itemsize: int) -> int:
    """Bytes that one point of one prompt's path holds until its backward pass.

    Keys and values of all tokens (the prefix, and joined with the last token), what each block
    keeps of the last token, and logits, probabilities and their gradients in float32.
    """
    keys_and_values = 2 * 2 * tokens * hidden * layers * itemsize
    activations = 24 * hidden * layers * itemsize
    return keys_and_values + activations + 4 * vocabulary * 4


def prompts_together(point: int, config: AttributionConfig) -> int:
    """Prompts that are attributed in one backward pass, at ``point`` bytes per point of a path."""
    return max(1, config.memory_mb * 2**20 // (point * config.steps))


def site_path(model: LanguageModel, layer: int, config: AttributionConfig) -> str:
    """The module whose output (before the activation) or input (after it) the neurons are."""
    return model.path(layer, "mlp_in" if config.site == "pre_activation" else "mlp_out")


def neurons_of(model: LanguageModel, site: Activation, config: AttributionConfig) -> Tensor:
    """The neurons' values, (..., D), in what a module of :func:`site_path` read and computed.

    Where one projection computes the gate and the values behind it, the neurons are the gate, as
    in models that have two projections.
    """
    if config.site == "post_activation":
        return site.inputs
    parts = 2 if model.architecture.gate_and_up else 1
    return site.output[..., : site.output.shape[-1] // parts]


def effect_of(
    model: LanguageModel, path: str, config: AttributionConfig
) -> Callable[[Tensor, Tensor], Tensor]:
    """From values of the neurons, (N, D), and the output of the module at ``path``, (N, out), to
    the output with these values, (N, out).
    """
    if config.site == "pre_activation":
        return lambda neurons, output: torch.cat([neurons, output[:, neurons.shape[1] :]], dim=1)
    module = model.module(path)
    weight = input_major(module, module.get_parameter("weight"))  # (D, H)
    bias = getattr(module, "bias", None)
    return lambda neurons, _: neurons @ weight if bias is None else neurons @ weight + bias


def _attribute_together(
    model: LanguageModel,
    queries: Sequence[Query],
    config: AttributionConfig,
    advance: Callable[[int], object],
) -> list[Tensor]:
    layers = range(model.n_layers)
    sites = [site_path(model, layer, config) for layer in layers]
    blocks = [model.architecture.block(layer) for layer in layers]
    points = torch.tensor(alphas(config), device=model.device)  # (S,)
    rows = torch.arange(len(queries)).repeat_interleave(len(points))  # (B S,)
    tail, seen = _last_token(model, [query.prompt for query in queries], [*blocks, *sites])
    tail = tail.select(rows.to(model.device))
    targets = TargetLoss.of(
        [[Completion(query.prompt, query.targets)] for query in queries for _ in points],
        device=model.device,
        positions="last_prompt",
    )
    scores = []
    for layer in layers:
        own = neurons_of(model, seen[sites[layer]], config).reshape(len(queries), -1)  # a, (B, D)
        path = own[:, None] * points.to(own.device, own.dtype)[:, None]  # α a, (B, S, D)
        leaf = path.flatten(0, 1).requires_grad_()  # (B S, D)
        hidden = seen[blocks[layer]].inputs[rows.to(own.device)]  # (B S, 1, H)
        effect = effect_of(model, sites[layer], config)
        with replacing(model, {sites[layer]: _set_to(effect, leaf)}):
            states = tail.above(layer, hidden).run(hidden)[:, 0]  # (B S, H)
        probability = torch.softmax(model.head(model.final_hidden(states)), dim=-1)  # (B S, V)
        total = targets.weighted(probability, by_row=True).sum()
        [gradient] = torch.autograd.grad(total, leaf)  # dP / d(α a)
        summed = gradient.float().reshape(path.shape).sum(dim=1)  # (B, D)
        scores.append((own.float() * summed / len(points)).cpu())
        advance(len(queries))
    return list(torch.stack(scores, dim=1))  # B x (L, D)


def _last_token(
    model: LanguageModel, prompts: Sequence[tuple[int, ...]], paths: Sequence[str]
) -> tuple[Tail, dict[str, Activation]]:
    """All blocks at the prompts' last token, and the activations of the modules at ``paths``."""
    # A prompt of one token has no prefix: a masked token takes its place.
    before = padded([prompt[:-1] or prompt for prompt in prompts], model.device)  # (B, P)
    lengths = torch.tensor([len(prompt) - 1 for prompt in prompts], device=model.device)
    last = torch.tensor([prompt[-1:] for prompt in prompts], device=model.device)  # (B, 1)
    with torch.no_grad():
        prefix, _ = run_prefix(model, before, lengths)
        with recording(model, paths) as seen:
            tail = Tail.record(model, prefix, last, lengths, start=0)
    return tail, seen


def _set_to(
    effect: Callable[[Tensor, Tensor], Tensor], neurons: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """Replaces a module's output by what it would be with these values of the neurons."""

    def replace(_: Tensor, output: Tensor) -> Tensor:
        rows = output.reshape(len(neurons), -1)  # (N, out)
        return effect(neurons.to(output.device), rows).reshape(output.shape)

    return replace


# ---------------------------------------------------------------- from scores to neurons


def neurons_above_threshold(scores: Tensor, config: AttributionConfig) -> list[Neuron]:
    """The coarse set of one prompt, by layer and number.

    Args:
        scores: (L, D)
        config: Its ``threshold`` and ``threshold_kind``.
    """
    if config.threshold_kind == "adaptive":
        limit = config.threshold * float(scores.max())
    elif config.threshold_kind == "absolute":
        limit = config.threshold
    else:
        rank = max(1, round(config.threshold * scores.numel()))
        limit = float(scores.flatten().kthvalue(rank).values)
    return [(int(layer), int(neuron)) for layer, neuron in torch.nonzero(scores > limit)]


def refined_neurons(coarse: Sequence[Sequence[Neuron]], config: KnConfig) -> list[Neuron]:
    """Neurons in more than a share ``p`` of the coarse sets, in order of first occurrence.

    With ``wanted_neurons``, ``p`` is moved in steps of 0.05 until their number is within range. The
    original code does that for the average over a relation's facts; here it is done for each fact,
    so that an edit does not depend on the other requests.
    """
    p, neurons = config.p, shared_neurons(coarse, config.p)
    if config.wanted_neurons is None:
        return neurons
    least, most = config.wanted_neurons
    while len(neurons) < least and p > 0:
        p = max(0.0, p - _P_STEP)
        neurons = shared_neurons(coarse, p)
    while len(neurons) > most and p < 1:
        p = min(1.0, p + _P_STEP)
        fewer = shared_neurons(coarse, p)
        if len(fewer) < least:  # too many is better than too few
            break
        neurons = fewer
    return neurons


def shared_neurons(coarse: Sequence[Sequence[Neuron]], p: float) -> list[Neuron]:
    """Neurons in more than a share ``p`` of the coarse sets."""
    counts = Counter(neuron for neurons in coarse for neuron in neurons)
    return [neuron for neuron, n in counts.items() if n > p * len(coarse)]
