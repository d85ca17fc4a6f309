"""FT, FT+L and AttnEdit: Adam on the weights of one module.

Meng et al. 2022, appendix E.1 (first version: D.1 and E, for AttnEdit), after Zhu et al. 2020.
With θ the trained weights, θ0 their originals, p a prompt and o* its new object:

    minimise  -log P_θ[o* | p]                     TargetLoss, in _Batch.evaluate
    with      |θ - θ0|_∞ <= ε   (FT+L, AttnEdit)   _clamp, after every step of Adam (minimise)

One by one, several requests are trained side by side, each on its own copy of the weights. Jointly,
one copy is trained on the mean loss of all facts, in mini-batches if there are many. The blocks
below the trained one are run once; each step runs the blocks from there on.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from editkit import Dense, Editor, EditRequest, Requirements, WeightDelta
from editkit.editing.optimise import minimise, minimise_in_batches
from editkit.editing.outcomes import convergence
from editkit.editing.target_loss import TargetLoss, target_rows
from editkit.models import Completion, LanguageModel, ModelShape
from editkit.models.encoding import padded
from editkit.models.running import Tail, replacing
from editkit.models.weight_layout import input_major
from editkit.progress import counting
from editkit_plugins.finetune.config import FineTuneConfig

Weights = Mapping[str, Tensor]
"""Trained parameters by name, input-major."""

_FLOAT = 4  # bytes

_HELD_BACK = 0.25
"""The bound is what stops training if at least this share of entries has reached it."""

_SEVERAL_TOKENS = (
    "the target has several tokens, and target_positions: last_prompt trains all of them at the "
    "prompt's last token, so the model does not learn to write them in order"
)
_TEACHER_FORCED = "set target_positions: teacher_forced (presets paper and corrected)"


@dataclasses.dataclass(frozen=True)
class Training:
    """The result of training one copy of the weights.

    Attributes:
        change: Change of each parameter, input-major.
        losses: Loss before each update, in nats; the last one may be below ``stop_loss``, without
            an update after it. Of mini-batches, the mean over each pass.
        facts: Loss of each fact under the trained weights, in nats.
        tokens: Number of target tokens of each fact.
        at_bound: The share of entries that have moved as far as the bound allows.
    """

    change: Weights
    losses: tuple[float, ...]
    facts: tuple[float, ...]
    tokens: tuple[int, ...]
    at_bound: float = 0.0

    @property
    def loss(self) -> float:
        """Loss of the trained weights, in nats: the mean over the facts."""
        return sum(self.facts) / len(self.facts)


class FineTuneEditor(Editor[FineTuneConfig]):
    """Fine-tuning of one module, free or within a box around its original weights."""

    name = "ft"

    def check(self, model: LanguageModel) -> None:
        """Refuse a layer that the model does not have, or that has experts instead of one MLP.

        Raises:
            ModelError: There is no such layer, or its MLP cannot be trained.
        """
        model.check_layer(self.config.layer)
        _paths(model, self.config)

    def requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        """Memory of a copy, a gradient and Adam's two moments per request, and of activations."""
        trained = self._n_trained(shape)
        together = min(requests, self._trained_together(trained))
        weights = (requests + 3 * together) * trained * _FLOAT  # with gradient and Adam's moments
        backward = shape.backward_bytes(together, tokens, shape.n_layers - self.config.layer)
        return Requirements(
            memory=weights + backward,
            notes=(f"{together} of {requests} changes are trained side by side (memory_mb)",),
        )

    def joint_requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        """Memory of one copy, its gradient, Adam's moments and the change, and of a batch."""
        facts = min(requests, self.config.batch)
        backward = shape.backward_bytes(facts, tokens, shape.n_layers - self.config.layer)
        return Requirements(memory=5 * self._n_trained(shape) * _FLOAT + backward)

    def _n_trained(self, shape: ModelShape) -> int:
        """Number of trained weights.

        Raises:
            ModelError: As for :meth:`check`.
        """
        config, architecture = self.config, shape.architecture
        shape.path(config.layer, "attention_out" if config.part == "qkv" else "mlp_out")  # refuses
        parts = architecture.qkv if config.part == "qkv" else (architecture.mlp_out,)
        return sum(
            math.prod(size)
            for part in parts
            for name, size in shape.module_parameters(architecture.path(config.layer, part)).items()
            if name == "weight" or (name == "bias" and config.train_bias)
        )

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """One dense delta per request."""
        return [
            self._delta(model, request, training, [warning])
            for request, training, warning in zip(
                requests, self.train(model, requests), self._warnings(model, requests), strict=True
            )
        ]

    def edit_jointly(self, model: LanguageModel, requests: Sequence[EditRequest]) -> WeightDelta:
        """One dense delta, trained on all requests."""
        training = self.train_jointly(model, requests)
        return self._delta(model, requests, training, self._warnings(model, requests))

    def _delta(
        self,
        model: LanguageModel,
        written: EditRequest | Sequence[EditRequest],
        training: Training,
        warnings: Sequence[Mapping[str, str]],
    ) -> WeightDelta:
        facts = [
            {**verdict(loss, tokens, training, self.config), **warning}
            for loss, tokens, warning in zip(training.facts, training.tokens, warnings, strict=True)
        ]
        return self.delta(
            model,
            written,
            {name: Dense(values) for name, values in training.change.items()},
            notes={
                "layer": self.config.layer,
                "steps": len(training.losses),
                **(facts[0] if isinstance(written, EditRequest) else {"facts": facts}),
            },
        )

    def train(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[Training]:
        """Train on each request; :meth:`edit` turns the results into deltas."""
        if not requests:
            return []
        model.check_layer(self.config.layer)
        facts = [each.completion for each in model.requested(requests)]
        total = len(facts) * (self.config.steps + 1)
        with model.frozen(), torch.enable_grad(), counting("fine-tuning", total) as advance:
            weights = sum(weight.numel() for weight in _originals(model, self.config).values())
            size = self._trained_together(weights)
            groups = [facts[i : i + size] for i in range(0, len(facts), size)]
            return [
                training
                for group in groups
                for training in _train([[fact] for fact in group], model, self.config, advance)
            ]

    def train_jointly(self, model: LanguageModel, requests: Sequence[EditRequest]) -> Training:
        """Train one copy of the weights on all requests."""
        model.check_layer(self.config.layer)
        facts = [each.completion for each in model.requested(requests)]
        with model.frozen(), torch.enable_grad():
            if len(facts) <= self.config.batch:
                with counting("fine-tuning", self.config.steps + 1) as advance:
                    return _train([facts], model, self.config, advance)[0]
            return _train_in_batches(facts, model, self.config)

    def _trained_together(self, weights: int) -> int:
        """Requests that fit: each holds the weights, their gradient and Adam's moments."""
        return max(1, self.config.memory_mb * 2**20 // (5 * _FLOAT * weights))

    def _warnings(
        self, model: LanguageModel, requests: Sequence[EditRequest]
    ) -> list[dict[str, str]]:
        """A note for each request with more target tokens than the editor can learn."""
        if self.config.target_positions != "last_prompt":
            return [{} for _ in requests]
        facts = model.complete(
            [request.sentence for request in requests],
            [request.target_new for request in requests],
        )
        notes = {"warning": _SEVERAL_TOKENS, "advice": _TEACHER_FORCED}
        return [notes if len(fact.target) > 1 else {} for fact in facts]


# ---------------------------------------------------------------- training


def _train(
    edits: Sequence[Sequence[Completion]],
    model: LanguageModel,
    config: FineTuneConfig,
    advance: Callable[[int], object],
) -> list[Training]:
    """Train one copy of the weights for each edit, on the mean loss of the edit's facts."""
    originals = _originals(model, config)
    names = list(originals)
    copies = [[originals[name].clone().requires_grad_() for name in names] for _ in edits]
    bounds = bounds_of(originals, config)
    clamp = None if bounds is None else functools.partial(_clamp, list(originals.values()), bounds)
    history = minimise(
        copies,
        _Batch.record(model, edits, names, config),
        lr=config.lr,
        evaluations=config.steps + 1,  # the last one measures the trained weights
        stop_loss=config.stop_loss,
        weight_decay=config.weight_decay,
        project=clamp,
        advance=advance,
    )
    trainings = []
    for facts, copy, evaluations in zip(edits, copies, history, strict=True):
        losses = [loss for (loss,) in evaluations]
        final = losses[-1:]
        if len(facts) > 1:
            with torch.no_grad():
                batch = _Batch.record(model, [facts], names, config)
                final = batch.of_facts(facts, copy, config).tolist()
        trainings.append(_trained(facts, copy, losses[: config.steps], final, originals, config))
    return trainings


def _train_in_batches(
    facts: Sequence[Completion], model: LanguageModel, config: FineTuneConfig
) -> Training:
    """Train one copy of the weights on all facts, some of them at a time."""
    originals = _originals(model, config)
    names = list(originals)
    copy = [weight.clone().requires_grad_() for weight in originals.values()]
    bounds = bounds_of(originals, config)

    def losses(batch: Sequence[int]) -> Tensor:
        chosen = [facts[i] for i in batch]
        return _Batch.record(model, [chosen], names, config).of_facts(chosen, copy, config)

    def clamp(weights: Sequence[Tensor]) -> None:
        if bounds is not None:
            _clamp(list(originals.values()), bounds, 0, weights)

    means, final = minimise_in_batches(
        copy,
        losses,
        len(facts),
        batch=config.batch,
        lr=config.lr,
        passes=config.steps,
        stop_loss=config.stop_loss,
        weight_decay=config.weight_decay,
        project=clamp,
    )
    return _trained(facts, copy, means, final, originals, config)


def _trained(
    facts: Sequence[Completion],
    copy: Sequence[Tensor],
    losses: Sequence[float],
    final: Sequence[float],
    originals: Weights,
    config: FineTuneConfig,
) -> Training:
    change = {
        name: weight.detach() - originals[name]
        for name, weight in zip(originals, copy, strict=True)
    }
    bounds = bounds_of(originals, config)
    return Training(
        change=change,
        losses=tuple(losses),
        facts=tuple(final),
        tokens=tuple(len(fact.target) for fact in facts),
        at_bound=0.0 if bounds is None else _share_at_bound(change, bounds),
    )


def _paths(model: LanguageModel, config: FineTuneConfig) -> list[str]:
    """Paths of the trained modules."""
    if config.part == "mlp_out":
        return [model.path(config.layer, "mlp_out")]
    return [model.architecture.path(config.layer, part) for part in model.architecture.qkv]


def _originals(model: LanguageModel, config: FineTuneConfig) -> dict[str, Tensor]:
    """θ0: the trained parameters as they are, float32 and input-major."""
    weights: dict[str, Tensor] = {}
    for path in _paths(model, config):
        module = model.module(path)
        for field in ("weight", "bias") if config.train_bias else ("weight",):
            parameter = getattr(module, field, None)
            if parameter is not None:
                weights[f"{path}.{field}"] = input_major(module, parameter.detach()).float()
    return weights


def bounds_of(originals: Mapping[str, Tensor], config: FineTuneConfig) -> list[float] | None:
    """ε of each trained parameter; None without a bound.

    Args:
        originals: The parameters by name, input-major: a matrix is (D, out).
        config: Has an absolute bound, one relative to the weights, both, or none. The relative
            bound of a bias is that of its module's matrix.
    """
    absolute, relative = config.max_change, config.max_relative_change
    if relative is None:
        return None if absolute is None else [absolute] * len(originals)
    bounds = []
    for name in originals:
        weight = originals[f"{name.rpartition('.')[0]}.weight"]
        rms = float(weight.square().mean().sqrt())
        bound = relative * rms / math.sqrt(weight.shape[0])
        bounds.append(bound if absolute is None else min(bound, absolute))
    return bounds


def _clamp(
    originals: Sequence[Tensor], bounds: Sequence[float], _: int, copy: Sequence[Tensor]
) -> None:
    """|θ - θ0|_∞ <= ε."""
    for weight, original, bound in zip(copy, originals, bounds, strict=True):
        torch.clamp(weight, original - bound, original + bound, out=weight)


@dataclasses.dataclass(frozen=True)
class _Batch:
    """The facts of several edits, with the rows of one edit side by side.

    Attributes:
        model: The model, its weights frozen.
        tail: The blocks from the trained one on.
        names: Names of the trained parameters.
        loss: Loss of each edit's targets.
        edit: The edit of each row, (B,), ascending.
    """

    model: LanguageModel
    tail: Tail
    names: Sequence[str]
    loss: TargetLoss
    edit: Tensor

    @classmethod
    def record(
        cls,
        model: LanguageModel,
        edits: Sequence[Sequence[Completion]],
        names: Sequence[str],
        config: FineTuneConfig,
    ) -> _Batch:
        device, positions = model.device, config.target_positions
        ids = padded(target_rows(edits, positions), device)  # (B, T)
        starts = torch.zeros(len(ids), dtype=torch.long, device=device)
        rows = [edit for edit, facts in enumerate(edits) for _ in facts]
        return cls(
            model=model,
            tail=Tail.record(model, None, ids, starts, start=config.layer),
            names=names,
            loss=TargetLoss.of(
                edits, device=device, positions=positions, reduction=config.target_loss
            ),
            edit=torch.tensor(rows, device=device),
        )

    def evaluate(self, copies: Sequence[Sequence[Tensor]]) -> tuple[Tensor]:
        """-log P[o* | p] of each edit under its own copy of the weights, (edits,)."""
        sizes = torch.bincount(self.edit, minlength=len(copies)).tolist()
        weights = [dict(zip(self.names, copy, strict=True)) for copy in copies]
        paths = dict.fromkeys(name.rpartition(".")[0] for name in self.names)
        with replacing(self.model, {path: _own_weights(path, weights, sizes) for path in paths}):
            hidden = self.tail.run(self.tail.hidden)  # (B, T, H)
        return (self.loss.of_states(self.model, self.loss.states(hidden)),)

    def of_facts(
        self, facts: Sequence[Completion], copy: Sequence[Tensor], config: FineTuneConfig
    ) -> Tensor:
        """The loss of each fact of a batch with a single edit, (facts,)."""
        loss = TargetLoss.of(
            [[fact] for fact in facts],
            device=self.model.device,
            positions=config.target_positions,
            reduction=config.target_loss,
        )
        return dataclasses.replace(self, loss=loss).evaluate([copy])[0]

    def select(self, requests: Sequence[int]) -> _Batch:
        place = torch.full((self.loss.n_edits,), -1, device=self.edit.device)
        place[list(requests)] = torch.arange(len(requests), device=place.device)
        rows = (place[self.edit] >= 0).nonzero()[:, 0]  # (B',)
        return dataclasses.replace(
            self,
            tail=self.tail.select(rows),
            loss=self.loss.select(requests, rows),
            edit=place[self.edit[rows]],
        )


def _own_weights(
    path: str, copies: Sequence[Weights], sizes: Sequence[int]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Replaces a module's output: the rows of each edit are multiplied with its own weights."""

    def run(inputs: Tensor, output: Tensor) -> Tensor:
        rows = inputs.reshape(sum(sizes), -1, inputs.shape[-1])  # (B, T, in)
        results = []
        for x, copy in zip(torch.split(rows, list(sizes)), copies, strict=True):
            y = x @ copy[f"{path}.weight"].to(x.dtype)  # (rows, T, out)
            bias = copy.get(f"{path}.bias")
            results.append(y if bias is None else y + bias.to(x.dtype))
        return torch.cat(results).reshape(output.shape)

    return run


# ---------------------------------------------------------------- how it went


def verdict(loss: float, tokens: int, training: Training, config: FineTuneConfig) -> dict[str, Any]:
    """Notes ``loss``, ``converged`` and ``advice`` of one fact."""
    if training.at_bound > _HELD_BACK:
        fields = ("max_change", "max_relative_change")
        bounds = {field: getattr(config, field) for field in fields}
        named = " or ".join(f"{name} ({value:g})" for name, value in bounds.items() if value)
        advice = f"raise {named}, which holds the weights back"
    else:
        advice = (
            f"raise steps ({config.steps}) or lr ({config.lr:g}), or train another layer than "
            f"{config.layer}"
        )
    nll = loss / (tokens if config.target_loss == "sum" else 1)  # of one token
    return convergence(loss, nll, stop_loss=config.stop_loss, advice=advice)


def _share_at_bound(change: Weights, bounds: Sequence[float]) -> float:
    """The share of entries that have moved as far as their bound allows."""
    at_bound = sum(
        int((values.abs() >= 0.999 * bound).sum())
        for values, bound in zip(change.values(), bounds, strict=True)
    )
    return at_bound / sum(values.numel() for values in change.values())
