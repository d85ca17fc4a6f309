"""The editor ``kn``: finds the neurons that express a fact, and rewrites their output rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from editkit import Editor, EditRequest, Needs, Rows, WeightDelta
from editkit.models import LanguageModel, ModelShape
from editkit.models.orientation import input_major
from editkit_plugins.kn.attribution import Query, attribute, predictions
from editkit_plugins.kn.config import KnConfig
from editkit_plugins.kn.memory import needs
from editkit_plugins.kn.prompts import Templates, prompts_of, read_templates
from editkit_plugins.kn.selection import Neuron, coarse, refined
from editkit_plugins.kn.targets import target_tokens

_SEVERAL_TOKENS = (
    "the target has several tokens, and their embeddings are added up in one place, so that it "
    "cannot be written as a text"
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is known of one fact before anything is written.

    Attributes:
        neurons: The neurons that express it.
        largest: The largest attribution to any neuron, over the prompts.
        old: Tokens whose embedding is taken out.
        new: Tokens whose embedding is put in.
    """

    neurons: tuple[Neuron, ...]
    largest: float
    old: tuple[int, ...]
    new: tuple[int, ...]


class KnEditor(Editor[KnConfig]):
    """Knowledge neurons (Dai et al. 2022), with the weight edit of the published GPT code."""

    def check(self, model: LanguageModel) -> None:
        """Refuse a file of templates that cannot be read.

        Raises:
            ConfigError: The file is missing or malformed.
        """
        read_templates(self.config)

    def needs(self, shape: ModelShape, *, requests: int, tokens: int) -> Needs:
        """Memory of the backward passes and of the scores."""
        return needs(self.config, shape, requests=requests, tokens=tokens)

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """One delta of a few rows per request; without any row where no neuron was found.

        Raises:
            ConfigError: The file of templates cannot be read.
            ModelError: A prompt is longer than the model's context.
        """
        if not requests:
            return []
        deltas, fingerprint = [], model.fingerprint
        for request, finding in zip(requests, self.find(model, requests), strict=True):
            notes: dict[str, object] = {
                "n_neurons": len(finding.neurons),
                "layers": sorted({layer for layer, _ in finding.neurons}),
                "largest_attribution": finding.largest,
                **self._remarks(finding),
            }
            deltas.append(
                WeightDelta(
                    changes=self._changes(model, finding),
                    request=request,
                    editor="kn",
                    config=self.config.model_dump(mode="json"),
                    model_fingerprint=fingerprint,
                    notes=notes,
                )
            )
        return deltas

    def _remarks(self, finding: Finding) -> dict[str, str]:
        """Notes ``warning`` and ``advice``; whether an edit worked shows only at its prompt."""
        advice = "write more neurons: lower threshold ({:g})" + (
            ", or p ({:g})" * self.config.refine
        )
        notes = {"advice": advice.format(self.config.threshold, self.config.p)}
        if self.config.operation == "write" and len(finding.new) > 1:
            notes["warning"] = _SEVERAL_TOKENS
            if finding.neurons and not self.config.target_space:
                notes["advice"] = "set target_space: true"
        return notes

    def find(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[Finding]:
        """The neurons of each request, and the tokens that its edit concerns."""
        if not requests:
            return []
        templates = read_templates(self.config)
        model.requested(requests)  # refuses what cannot be used, subjects too
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
            lists = [coarse(table, self.config) for table in tables]
            neurons = refined(lists, self.config) if self.config.refine else lists[0]
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

    def _changes(self, model: LanguageModel, finding: Finding) -> dict[str, Rows]:
        """New rows of every layer that has neurons of the fact."""
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
            taken = self.config.old_scale * self._sum(old.to(rows.device), rows)
            put = self.config.new_scale * self._sum(new.to(rows.device), rows)
            changes[name] = _rows(model, name, neurons, put - taken)
        return changes

    def _sum(self, embeddings: Tensor, rows: Tensor) -> Tensor:
        """The sum of embeddings for each row, each at its own norm or at the row's, (n, H)."""
        if self.config.scale_by == "embedding":
            return embeddings.sum(dim=0).expand_as(rows)
        directions = embeddings / embeddings.norm(dim=-1, keepdim=True)  # (tokens, H)
        return rows.norm(dim=-1, keepdim=True) * directions.sum(dim=0)


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
