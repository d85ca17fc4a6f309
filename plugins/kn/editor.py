"""Knowledge neurons: find the neurons that express a fact, and rewrite their output rows.

Dai et al. 2022, section 5, with the weight edit of the published GPT code. With W_j the row of the
MLP's output projection that belongs to neuron j (its whole effect on the residual stream), and e
the token embeddings:

    W_j' = W_j - λ1 e(old) + λ2 sum e(new)      KnEditor._changes; λ1 old_scale, λ2 new_scale
    W_j' = 0 · W_j, 2 · W_j                     scaled: suppress, enhance

Which neurons: :mod:`editkit_plugins.kn.attribution`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from editkit import ConfigError, Editor, EditRequest, Requirements, Rows, WeightDelta
from editkit.editing.generation import sampled_contexts
from editkit.models import LanguageModel, ModelShape
from editkit.models.weight_layout import input_major
from editkit.prompts import fill
from editkit.storage.resources import path_of
from editkit_plugins.kn.attribution import (
    Neuron,
    Query,
    attribute,
    neurons_above_threshold,
    point_bytes,
    predictions,
    prompts_together,
    refined_neurons,
    site_path,
    target_tokens,
)
from editkit_plugins.kn.config import KnConfig

_TOP_K = 5  # of sampled contexts

_SEVERAL_TOKENS = (
    "the target has several tokens, and the sum of their embeddings is written at one position, so "
    "the model does not learn to write them in order"
)

Templates = Mapping[str, Sequence[str]]
"""Prompts with ``{}`` for the subject, by relation."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """The neurons of one fact, and the tokens that its edit concerns.

    Attributes:
        neurons: The neurons that express it.
        largest: The largest attribution to any neuron, over the prompts.
        old: Tokens whose embeddings are subtracted.
        new: Tokens whose embeddings are added.
    """

    neurons: tuple[Neuron, ...]
    largest: float
    old: tuple[int, ...]
    new: tuple[int, ...]


class KnEditor(Editor[KnConfig]):
    """Writes facts into the rows of the neurons that express them."""

    name = "kn"

    def check(self, model: LanguageModel) -> None:
        """Refuse a file of templates that cannot be read, and blocks with experts.

        Raises:
            ConfigError: The file is missing or malformed.
            ModelError: A block has experts instead of one MLP.
        """
        read_templates(self.config)
        for layer in range(model.n_layers):
            site_path(model, layer, self.config)

    def requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        """Memory of the prompts that share a backward pass, and of all neurons' scores."""
        for layer in range(shape.n_layers):
            shape.path(layer, "mlp_out")  # refuses experts
        several = 1 + self.config.contexts[0] if self.config.refine else 1
        if self.config.refine:
            tokens += self.config.contexts[1] + 1
        sizes = (shape.n_layers, shape.hidden_size, shape.vocabulary)
        point = point_bytes(*sizes, tokens, shape.bytes_per_value)
        together = min(requests * several, prompts_together(point, self.config))
        scores = requests * several * shape.n_layers * shape.inner_size * 4
        return Requirements(
            memory=together * self.config.steps * point + scores,
            notes=("The number of neurons, and so the size of the deltas, depends on the fact.",),
        )

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """One delta of a few rows per request; without any row if no neuron was found.

        Raises:
            ConfigError: The file of templates cannot be read.
            ModelError: A prompt is longer than the model's context.
        """
        return [
            self.delta(
                model,
                request,
                self._changes(model, finding),
                notes={
                    "n_neurons": len(finding.neurons),
                    "layers": sorted({layer for layer, _ in finding.neurons}),
                    "largest_attribution": finding.largest,
                    **self._remarks(finding),
                },
            )
            for request, finding in zip(requests, self.find(model, requests), strict=True)
        ]

    def _remarks(self, finding: Finding) -> dict[str, str]:
        """Notes ``warning`` and ``advice``; only the edited prompt shows whether an edit worked."""
        advice = "write more neurons: lower threshold ({:g})" + (
            ", or p ({:g})" * self.config.refine
        )
        notes = {"advice": advice.format(self.config.threshold, self.config.p)}
        if self.config.operation == "write" and len(finding.new) > 1:
            notes["warning"] = _SEVERAL_TOKENS
            if finding.neurons and not self.config.target_space:
                notes["advice"] = "set target_space: true"
        return notes

    # ------------------------------------------------------------ which neurons

    def find(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[Finding]:
        """The neurons of each request, and the tokens that its edit concerns."""
        if not requests:
            return []
        templates = read_templates(self.config)
        model.requested(requests)  # refuses requests that cannot be used, subjects too
        sentences = [request.sentence for request in requests]
        chats = [request.chat for request in requests]
        guesses = [token for token, _ in predictions(model, sentences, chats)]
        prompts = [
            self._queries(model, request, guess, templates)
            for request, guess in zip(requests, guesses, strict=True)
        ]
        scores = iter(attribute(model, [query for each in prompts for query in each], self.config))
        findings = []
        for request, guess, queries in zip(requests, guesses, prompts, strict=True):
            tables = [next(scores) for _ in queries]
            coarse = [neurons_above_threshold(table, self.config) for table in tables]
            neurons = refined_neurons(coarse, self.config) if self.config.refine else coarse[0]
            findings.append(
                Finding(
                    neurons=tuple(neurons),
                    largest=max(float(table.max()) for table in tables),
                    old=self._old(model, request, guess),
                    new=self._tokens(model, request, request.sentence, request.target_new),
                )
            )
        return findings

    def _queries(
        self, model: LanguageModel, request: EditRequest, guess: int, templates: Templates
    ) -> list[Query]:
        """The prompts of a request with the tokens to attribute: those of the true object."""
        queries = []
        for prompt in prompts_of(model, request, templates, self.config):
            [encoding] = model.read([prompt], chat=request.chat)
            model.check_length(encoding)
            if request.target_true is None:
                targets: tuple[int, ...] = (guess,)
            else:
                targets = self._tokens(model, request, prompt, request.target_true)
            queries.append(Query(encoding.ids, targets))
        return queries

    def _old(self, model: LanguageModel, request: EditRequest, guess: int) -> tuple[int, ...]:
        if self.config.old_token == "predicted" or request.target_true is None:
            return (guess,)
        return self._tokens(model, request, request.sentence, request.target_true)

    def _tokens(
        self, model: LanguageModel, request: EditRequest, prompt: str, target: str
    ) -> tuple[int, ...]:
        return target_tokens(
            model, prompt, target, self.config, separator=request.separator, chat=request.chat
        )

    # ------------------------------------------------------------ their rows

    def _changes(self, model: LanguageModel, finding: Finding) -> dict[str, Rows]:
        """The changes of every layer that has neurons of the fact."""
        by_layer: dict[int, list[int]] = {}
        for layer, neuron in finding.neurons:
            by_layer.setdefault(layer, []).append(neuron)
        if self.config.operation != "write":
            factor = 0.0 if self.config.operation == "suppress" else 2.0
            return scaled(model, by_layer, factor)
        table = model.hf.get_input_embeddings().weight.detach().float()  # (V, H)
        old, new = table[list(finding.old)], table[list(finding.new)]  # (tokens, H)
        changes = {}
        for layer, neurons in by_layer.items():
            name, rows = output_rows(model, layer, neurons)  # (n, H)
            removed = self.config.old_scale * self._sum(old.to(rows.device), rows)
            added = self.config.new_scale * self._sum(new.to(rows.device), rows)
            changes[name] = _rows(model, name, neurons, added - removed)
        return changes

    def _sum(self, embeddings: Tensor, rows: Tensor) -> Tensor:
        """The sum of embeddings for each row, each at its own norm or at the row's, (n, H)."""
        if self.config.scale_by == "embedding":
            return embeddings.sum(dim=0).expand_as(rows)
        directions: Tensor = embeddings / embeddings.norm(dim=-1, keepdim=True)  # (tokens, H)
        norms: Tensor = rows.norm(dim=-1, keepdim=True)  # (n, 1)
        return norms * directions.sum(dim=0)


def prompts_of(
    model: LanguageModel, request: EditRequest, templates: Templates, config: KnConfig
) -> list[str]:
    """The request's own prompt, and with ``refine`` those of its relation, or sampled contexts."""
    if not config.refine:
        return [request.sentence]
    known = templates.get(request.relation_id or "", ())
    if known:
        sentences = [request.sentence, *(fill(template, request.subject) for template in known)]
        return list(dict.fromkeys(sentences))
    contexts = sampled_contexts(model, [config.contexts], top_k=_TOP_K, seed=config.seed)
    return [request.sentence, *(text + request.sentence for text in contexts)]


def read_templates(config: KnConfig) -> Templates:
    """The templates of the config's file; none if it names no file.

    Raises:
        ConfigError: The file is missing or malformed.
    """
    if config.templates is None:
        return {}
    path = path_of(config.templates)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"templates {config.templates!r} cannot be read: {error}.",
            hint="Set editors.kn.templates to a JSON file, or to 'package:file.json'.",
        ) from None
    well_formed = isinstance(content, dict) and all(
        isinstance(templates, list) and all(isinstance(t, str) and "{}" in t for t in templates)
        for templates in content.values()
    )
    if not well_formed:
        raise ConfigError(
            f"templates {config.templates!r} do not map relations to lists of prompts.",
            hint='Write {"P17": ["{} is located in", ...], ...}, with {} for the subject.',
        )
    return dict(content)


def scaled(model: LanguageModel, neurons: dict[int, list[int]], factor: float) -> dict[str, Rows]:
    """Changes that multiply what neurons give to the residual stream, at every token.

    A neuron's whole effect is its row of the MLP's output projection, so that suppressing it
    (factor 0) or enhancing it (factor 2) is an edit like any other: it is applied for a block of
    code, stacked, saved and taken back.

    Args:
        model: The model.
        neurons: Numbers of neurons, by layer.
        factor: What their effect is multiplied with.
    """
    changes = {}
    for layer, numbers in neurons.items():
        name, rows = output_rows(model, layer, numbers)
        changes[name] = _rows(model, name, numbers, (factor - 1) * rows)
    return changes


def output_rows(model: LanguageModel, layer: int, neurons: Sequence[int]) -> tuple[str, Tensor]:
    """The name of a layer's output projection, and its rows for some neurons, (n, H) float32."""
    path = model.path(layer, "mlp_out")
    module = model.module(path)
    weight = input_major(module, module.get_parameter("weight").detach())  # (D, H)
    return f"{path}.weight", weight[list(neurons)].float()


def _rows(model: LanguageModel, name: str, neurons: Sequence[int], values: Tensor) -> Rows:
    module = model.module(name.rpartition(".")[0])
    n_rows = input_major(module, module.get_parameter("weight")).shape[0]
    return Rows(torch.tensor(list(neurons)), values.contiguous(), n_rows)
