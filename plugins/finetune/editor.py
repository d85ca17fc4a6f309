"""The editors ``ft``, ``ft+l`` and ``attnedit``: Adam on the weights of one module.

Several requests are trained side by side, each on its own copy of the weights. Blocks below the
trained one are run once; each step runs the blocks from there on, with logits only where they
are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from editkit import Dense, Editor, EditRequest, Needs, WeightDelta
from editkit.editing.outcomes import is_probable
from editkit.models import Completion, LanguageModel, ModelShape
from editkit.models.encoding import padded
from editkit.models.orientation import input_major
from editkit.models.running import Tail, replacing
from editkit_plugins.finetune.config import FineTuneConfig
from editkit_plugins.finetune.needs import fine_tune_needs

Weights = dict[str, Tensor]
"""Trained parameters by name, input-major."""

_MANY = 0.25
"""Share of entries at the edge of the box from which on the box is what stops training."""

_SEVERAL_TOKENS = (
    "the target has several tokens, and with target_positions: last_prompt all of them are trained "
    "at the prompt's last token, so that it cannot be learnt as a text"
)
_TEACHER_FORCED = "set target_positions: teacher_forced (presets paper and corrected)"


@dataclasses.dataclass(frozen=True)
class Training:
    """What training did.

    Attributes:
        change: Change of each parameter, input-major.
        losses: Every evaluation of the loss before an update, in nats.
        loss: The loss of what came out.
        nll: The part of it that falls on one token of a target, in nats.
    """

    change: Weights
    losses: tuple[float, ...]
    loss: float
    nll: float


class FineTuneEditor(Editor[FineTuneConfig]):
    """Constrained or unconstrained fine-tuning (Zhu et al. 2020; Meng et al. 2022, appendix E)."""

    def check(self, model: LanguageModel) -> None:
        """Refuse a layer that the model does not have.

        Raises:
            ModelError: There is no such layer.
        """
        model.check_layer(self.config.layer)

    def needs(self, shape: ModelShape, *, requests: int, tokens: int) -> Needs:
        """Memory for copies, gradients, Adam's moments and activations."""
        return fine_tune_needs(self.config, shape, requests=requests, tokens=tokens)

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """One dense delta per request; with ``joint``, the same delta for all of them."""
        if not requests:
            return []
        fingerprint = model.fingerprint
        trained = self.train(model, requests)
        warnings = self._warnings(model, requests)
        shared = tuple(requests) if self.config.joint else None
        return [
            WeightDelta(
                changes={name: Dense(values) for name, values in training.change.items()},
                request=shared or request,
                editor=self.config.editor_name,
                config=self.config.model_dump(mode="json"),
                model_fingerprint=fingerprint,
                notes={
                    "layer": self.config.layer,
                    "loss": training.loss,
                    "steps": len(training.losses),
                    **_verdict(training, self.config),
                    **warning,
                },
            )
            for request, training, warning in zip(requests, trained, warnings, strict=True)
        ]

    def _warnings(
        self, model: LanguageModel, requests: Sequence[EditRequest]
    ) -> list[dict[str, str]]:
        """For each request, a note where its target has more tokens than can be learnt."""
        if self.config.target_positions != "last_prompt" or not requests:
            return [{} for _ in requests]
        facts = model.complete(
            [request.sentence for request in requests],
            [request.target_new for request in requests],
        )
        notes = {"warning": _SEVERAL_TOKENS, "advice": _TEACHER_FORCED}
        many = [len(fact.target) > 1 for fact in facts]
        if self.config.joint:  # one change for all
            many = [any(many)] * len(many)
        return [notes if several else {} for several in many]

    def train(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[Training]:
        """Train on each request, or on all together; what :meth:`edit` makes deltas of."""
        if not requests:
            return []
        model.check_layer(self.config.layer)
        facts = [each.completion for each in model.requested(requests)]
        with model.frozen(), torch.enable_grad():
            if self.config.joint:
                return [_train([facts], model, self.config)[0]] * len(facts)
            size = self._group_size(model)
            groups = [facts[i : i + size] for i in range(0, len(facts), size)]
            return [
                training
                for group in groups
                for training in _train([[fact] for fact in group], model, self.config)
            ]

    def _group_size(self, model: LanguageModel) -> int:
        """How many requests fit: each holds the weights, their gradient and Adam's moments."""
        weights = sum(w.numel() for w in _originals(model, self.config).values())
        return max(1, self.config.memory_mb * 2**20 // (5 * 4 * weights))


def _train(
    edits: Sequence[Sequence[Completion]], model: LanguageModel, config: FineTuneConfig
) -> list[Training]:
    """Train one copy of the weights for each edit, on the mean loss of the edit's facts."""
    originals = _originals(model, config)
    copies = [{n: w.clone().requires_grad_() for n, w in originals.items()} for _ in edits]
    optimiser = torch.optim.Adam(
        [weight for copy in copies for weight in copy.values()],
        lr=config.lr,
        weight_decay=config.weight_decay,
    )
    losses: list[list[float]] = [[] for _ in edits]
    final: dict[int, float] = {}
    active = list(range(len(edits)))
    batch = _Batch.record(model, edits, config)
    for _ in range(config.steps):
        loss = batch.evaluate([copies[e] for e in active])  # (edits,)
        for e, value in zip(active, loss.tolist(), strict=True):
            losses[e].append(value)
        going = [place for place, e in enumerate(active) if losses[e][-1] >= config.stop_loss]
        if not going:
            break
        moving = [weight for place in going for weight in copies[active[place]].values()]
        optimiser.zero_grad()
        for weight, gradient in zip(
            moving, torch.autograd.grad(loss[going].sum(), moving), strict=True
        ):
            weight.grad = gradient
        optimiser.step()
        if config.max_change is not None:
            for place in going:
                _clamp(copies[active[place]], originals, config.max_change)
        if len(going) < len(active):
            active = [active[place] for place in going]
            batch = batch.select(going)
    else:  # the last update is not evaluated yet
        with torch.no_grad():
            last = batch.evaluate([copies[e] for e in active]).tolist()
        final.update(zip(active, last, strict=True))
    return [
        Training(
            {name: (weight.detach() - originals[name]) for name, weight in copy.items()},
            tuple(losses[e]),
            final.get(e, losses[e][-1]),
            final.get(e, losses[e][-1]) / _tokens(edits[e], config),
        )
        for e, copy in enumerate(copies)
    ]


def _tokens(facts: Sequence[Completion], config: FineTuneConfig) -> float:
    """Tokens of a target that the loss of an edit is summed over, on average over its facts."""
    if config.target_loss == "token_mean":
        return 1.0
    return sum(len(fact.target) for fact in facts) / len(facts)


def _verdict(training: Training, config: FineTuneConfig) -> dict[str, Any]:
    """Notes ``converged`` and ``advice``.

    Training converged if its loss fell below ``stop_loss``, or if the target is more probable than
    not: few runs reach the published bound of 0.01 within the published number of steps.
    """
    if training.loss < config.stop_loss or is_probable(training.nll):
        return {"converged": True}
    box = config.max_change
    if box is not None and _share_at_edge(training.change, box) > _MANY:
        advice = f"raise max_change ({box:g}), which holds the weights back"
    else:
        advice = (
            f"raise steps ({config.steps}) or lr ({config.lr:g}), or train another layer than "
            f"{config.layer}"
        )
    return {"converged": False, "advice": advice}


def _share_at_edge(change: Weights, box: float) -> float:
    """The share of entries that are as far from their original as the box allows."""
    edge = 0.999 * box
    at_edge = sum(int((values.abs() >= edge).sum()) for values in change.values())
    return at_edge / sum(values.numel() for values in change.values())


def _clamp(weights: Weights, originals: Weights, radius: float) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            torch.clamp(weight, originals[name] - radius, originals[name] + radius, out=weight)


def _paths(model: LanguageModel, config: FineTuneConfig) -> list[str]:
    """Paths of the trained modules."""
    if config.part == "mlp_out":
        return [model.path(config.layer, "mlp_out")]
    return [model.architecture.path(config.layer, part) for part in model.architecture.qkv]


def _originals(model: LanguageModel, config: FineTuneConfig) -> Weights:
    """The trained parameters as they are, float32 and input-major."""
    weights: Weights = {}
    for path in _paths(model, config):
        module = model.module(path)
        for field in ("weight", "bias") if config.train_bias else ("weight",):
            parameter = getattr(module, field, None)
            if parameter is not None:
                weights[f"{path}.{field}"] = input_major(module, parameter.detach()).float()
    return weights


@dataclasses.dataclass(frozen=True)
class _Batch:
    """The facts of several edits, rows of one edit side by side.

    Attributes:
        tail: The blocks from the trained one on.
        edit: The edit of each row, (B,), ascending.
        read: Row and token of each prediction that is read, 2 x (N,).
        labels: The token wanted there, (N,).
        weights: Its weight in the edit's loss, (N,).
    """

    model: LanguageModel
    config: FineTuneConfig
    tail: Tail
    edit: Tensor
    read: tuple[Tensor, Tensor]
    labels: Tensor
    weights: Tensor

    @classmethod
    def record(
        cls,
        model: LanguageModel,
        edits: Sequence[Sequence[Completion]],
        config: FineTuneConfig,
    ) -> _Batch:
        device = model.device
        forced = config.target_positions == "teacher_forced"
        facts = [(e, fact) for e, group in enumerate(edits) for fact in group]
        rows = [f.prompt + f.target[:-1] if forced else f.prompt for _, f in facts]
        reads = [
            (b, len(fact.prompt) - 1 + (j if forced else 0), token)
            for b, (_, fact) in enumerate(facts)
            for j, token in enumerate(fact.target)
        ]
        mean = config.target_loss == "token_mean"
        sizes = [(len(fact.target) if mean else 1) * len(edits[e]) for e, fact in facts]
        shares = [
            1 / size for size, (_, fact) in zip(sizes, facts, strict=True) for _ in fact.target
        ]
        row, token, label = (torch.tensor(c, device=device) for c in zip(*reads, strict=True))
        ids = padded(rows, device)  # (B, T)
        starts = torch.zeros(len(rows), dtype=torch.long, device=device)
        return cls(
            model=model,
            config=config,
            tail=Tail.record(model, None, ids, starts, start=config.layer),
            edit=torch.tensor([e for e, _ in facts], device=device),
            read=(row, token),
            labels=label,
            weights=torch.tensor(shares, device=device),
        )

    def evaluate(self, copies: Sequence[Weights]) -> Tensor:
        """Loss of each edit under its own copy of the weights, (edits,)."""
        sizes = torch.bincount(self.edit, minlength=len(copies)).tolist()
        hooks = {path: _own_weights(path, copies, sizes) for path in self._paths()}
        with replacing(self.model, hooks):
            states = self.tail.run(self.tail.hidden)[self.read]  # (N, H)
        log_p = torch.log_softmax(self.model.head(self.model.final_hidden(states)), dim=-1)
        nll = -log_p.gather(1, self.labels[:, None])[:, 0]  # (N,)
        total = torch.zeros(len(copies), device=nll.device)
        return total.index_add(0, self.edit[self.read[0]], nll * self.weights)

    def _paths(self) -> list[str]:
        return _paths(self.model, self.config)

    def select(self, edits: Sequence[int]) -> _Batch:
        """The same for some of the edits."""
        place = torch.full((int(self.edit.max()) + 1,), -1, device=self.edit.device)
        place[torch.tensor(edits, device=place.device)] = torch.arange(
            len(edits), device=place.device
        )
        keep = place[self.edit] >= 0  # (B,)
        new_row = keep.cumsum(0) - 1
        kept = keep[self.read[0]]  # (N,)
        return dataclasses.replace(
            self,
            tail=self.tail.select(keep.nonzero()[:, 0]),
            edit=place[self.edit[keep]],
            read=(new_row[self.read[0][kept]], self.read[1][kept]),
            labels=self.labels[kept],
            weights=self.weights[kept],
        )


def _own_weights(
    path: str, copies: Sequence[Weights], sizes: Sequence[int]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Replaces a module's output: the rows of each edit are multiplied with its own weights."""

    def run(inputs: Tensor, output: Tensor) -> Tensor:
        rows = inputs.reshape(sum(sizes), -1, inputs.shape[-1])  # (B, T, in)
        results = []
        for x, copy in zip(rows.split(list(sizes)), copies, strict=True):
            y = x @ copy[f"{path}.weight"].to(x.dtype)  # (rows, T, out)
            bias = copy.get(f"{path}.bias")
            results.append(y if bias is None else y + bias.to(x.dtype))
        return torch.cat(results).reshape(output.shape)

    return run
