"""UltraEdit (Gu et al. 2025): one closed-form step from hidden states and gradients.

A turn writes N facts. For every edited linear module with weight W (in x out), over the m rows of a
sub-batch of the turn (the positions that predict the targets of its facts):

    h, g         the module's input, and the gradient of the loss with        collect
                 respect to its output
    x = [h | g]                                                               Statistics.update
        d    = mean(x) - mu
        mu  += m d / (n + m)
        var += m Var(x) + n m d² / (n + m)
        n   += m
    std = sqrt(var / (n - 1 + eps))                                           Statistics.normalised
    x^  = (x - mu) / (std + eps) = [h^ | g^]
    v_j = -lr |h^_j|² g^_j                                                    shift
    W  += (Hᵀ H + ridge I)⁻¹ Hᵀ V                                             least_squares

The loss is the cross entropy, averaged over all target tokens of a sub-batch. mu, var and n are
shared by all modules with weights of one shape. They are what a sequence keeps from step to step:
every turn first adds its rows, then is normalised with them included. H has the raw rows of this
turn only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from editkit import (
    Dense,
    EditRequest,
    JointEditor,
    LowRank,
    ModelError,
    RequestError,
    Requirements,
    WeightDelta,
)
from editkit.editing.gradients import LowerBlocks, edit_gradients
from editkit.models import Architecture, Completion, LanguageModel, ModelShape
from editkit.progress import counting
from editkit_plugins.ultraedit.config import EditedModules, UltraEditConfig

State = Mapping[str, Tensor]
Rows = tuple[Tensor, Tensor]
"""Hidden states (m, in) and gradients (m, out) of one module and one sub-batch."""

_EPS = float(torch.finfo(torch.float32).eps)
_FLOAT = 4  # bytes
_FROM, _TO = 18 / 28, 26 / 28  # of the depth: the blocks edited in GPT-J


class UltraEditEditor(JointEditor[UltraEditConfig]):
    """Writes all facts of a turn with one least-squares update of each edited module."""

    name = "ultraedit"

    def check(self, model: LanguageModel) -> None:
        """Refuse modules that the model does not have.

        Raises:
            ModelError: A block or a part does not exist, or the block has experts.
        """
        self.paths(model)

    def paths(self, model: LanguageModel | ModelShape) -> list[str]:
        """Paths of the edited modules, in the order in which they enter the statistics.

        Raises:
            ModelError: As for :meth:`check`.
        """
        modules = self.config.modules or (_default_modules(model.n_layers),)
        return [
            path
            for each in modules
            for layer in range(each.first, each.last + 1)
            for path in _paths(model, each, layer)
        ]

    def requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        """Memory of one sub-batch's backward pass, and of rows and deltas of all requests.

        A target is taken to have two tokens.
        """
        config = self.config
        sizes = [sorted(shape.module_parameters(path)["weight"]) for path in self.paths(shape)]
        rows = requests * (2 if config.tokens == "target" else tokens)
        lowest = min(_layer_of(shape.architecture, path) for path in self.paths(shape))
        collected = rows * sum(map(sum, sizes)) * _FLOAT
        deltas = sum(min(rows * sum(size), math.prod(size)) for size in sizes) * _FLOAT
        facts = min(requests, config.sub_batch)
        backward = shape.backward_bytes(facts, tokens, shape.n_layers - lowest)
        return Requirements(memory=backward + collected + deltas)

    def edit_jointly(self, model: LanguageModel, requests: Sequence[EditRequest]) -> WeightDelta:
        """The delta of one turn, normalised by its own rows.

        Raises:
            RequestError: As for :meth:`step`.
        """
        return self.step(model, requests, {})[0]

    def step(
        self, model: LanguageModel, requests: Sequence[EditRequest], state: State
    ) -> tuple[WeightDelta, State]:
        """One turn.

        Args:
            model: The model, with all earlier turns applied.
            requests: The facts of the turn.
            state: For each shape of weights, ``INxOUT.mean`` and ``.var``, (in + out,), and ``.n``,
                the number of rows so far, all float64; empty before the first turn.

        Returns:
            The delta on top of the earlier turns, and the new state.

        Raises:
            RequestError: A sub-batch has a single row, and ``variance`` is ``unbiased``.
        """
        paths = self.paths(model)
        batches, losses = collect(model, requests, paths, self.config)
        statistics = updated(state, batches, self.config)
        changes: dict[str, Dense | LowRank] = {}
        advice = f"raise lr ({self.config.lr:g}), or edit other modules"
        notes: dict[str, Any] = {"advice": advice}
        for path in paths:
            h = torch.cat([batch[path][0] for batch in batches])  # (m, in)
            g = torch.cat([batch[path][1] for batch in batches])  # (m, out)
            own = statistics[_shape_name(h, g)]
            changes[f"{path}.weight"] = shift(h, g, own, self.config)
            weight = model.hf.get_parameter(f"{path}.weight")
            notes |= _doubts(path, changes[f"{path}.weight"], weight, own)
        facts = [{"loss_before": loss} for loss in losses]
        delta = self.delta(model, requests, changes, notes={"facts": facts, **notes})
        return delta, {
            f"{name}.{field}": tensor
            for name, each in statistics.items()
            for field, tensor in each.tensors().items()
        }


# ---------------------------------------------------------------- hidden states and gradients


def collect(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    paths: Sequence[str],
    config: UltraEditConfig,
) -> tuple[list[dict[str, Rows]], list[float]]:
    """Rows of every sub-batch by module, and the loss of the sub-batch of each request.

    The longest requests come first; those of one length keep their order.
    """
    facts = [each.completion for each in model.requested(requests)]
    order = sorted(range(len(facts)), key=lambda i: -_length(facts[i]))
    lowest = min(_layer_of(model.architecture, path) for path in paths)
    blocks = LowerBlocks(model, lowest)
    batches = []
    losses = [0.0] * len(facts)
    with counting("reading gradients", len(order), unit="fact") as advance:
        for start in range(0, len(order), config.sub_batch):
            chosen = order[start : start + config.sub_batch]
            batch = [facts[i] for i in chosen]
            gradients = edit_gradients(blocks, [batch], paths)
            kept = _kept(batch, all_tokens=config.tokens == "all")  # (B, T)
            batches.append(
                {
                    path: (
                        h[kept.to(h.device)],
                        gradients.output_gradients[path][kept.to(h.device)],
                    )
                    for path, h in gradients.inputs.items()
                }
            )
            for i in chosen:
                losses[i] = float(gradients.losses[0])
            advance(len(chosen))
    return batches, losses


def _length(fact: Completion) -> int:
    return len(fact.prompt) + len(fact.target)


def _kept(batch: Sequence[Completion], *, all_tokens: bool) -> Tensor:
    """Which tokens of a padded batch are rows, (B, T)."""
    end = torch.tensor([_length(fact) - 1 for fact in batch])[:, None]  # the last token is not run
    start = torch.tensor([0 if all_tokens else len(fact.prompt) - 1 for fact in batch])[:, None]
    column = torch.arange(int(end.max()))[None]
    return (start <= column) & (column < end)


# ---------------------------------------------------------------- lifelong normalisation


@dataclasses.dataclass
class Statistics:
    """Running mean and sum of squared deviations over all rows so far, float64.

    Attributes:
        mean: mu, (in + out,).
        var: Sum of squared deviations, (in + out,); the paper's code calls it a variance.
        n: Number of rows.
    """

    mean: Tensor
    var: Tensor
    n: Tensor

    @classmethod
    def of(cls, state: State, name: str, width: int) -> Statistics:
        """The statistics of a shape in a state, or empty ones."""
        zeros = {"mean": torch.zeros(width), "var": torch.zeros(width), "n": torch.zeros(())}
        own = {field: state.get(f"{name}.{field}", zero) for field, zero in zeros.items()}
        return cls(**{field: tensor.double().clone() for field, tensor in own.items()})

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name."""
        return {"mean": self.mean, "var": self.var, "n": self.n}

    def update(self, x: Tensor, *, exact: bool) -> None:
        """Add the rows of one sub-batch and one module, (m, in + out)."""
        m = len(x)
        x = x.to(self.mean)
        squares = (x - x.mean(dim=0)).square().sum(dim=0)  # (in + out,)
        if not exact:
            squares = squares * m / (m - 1)  # m Var(x), with the unbiased Var
        d = x.mean(dim=0) - self.mean
        total = self.n + m
        self.mean = self.mean + m * d / total
        self.var = self.var + squares + self.n * m * d.square() / total
        self.n = total

    def normalised(self, x: Tensor) -> Tensor:
        """(x - mu) / (std + eps), (m, in + out)."""
        std = (self.var / (self.n - 1 + _EPS)).sqrt()
        return (x.to(self.mean) - self.mean) / (std + _EPS)


def updated(
    state: State, batches: Sequence[Mapping[str, Rows]], config: UltraEditConfig
) -> dict[str, Statistics]:
    """The statistics of each shape after all rows of a turn.

    Raises:
        RequestError: As for :meth:`UltraEditEditor.step`.
    """
    statistics: dict[str, Statistics] = {}
    for batch in batches:
        for h, g in batch.values():
            name = _shape_name(h, g)
            if len(h) == 1 and config.variance == "unbiased":
                raise RequestError(
                    "a sub-batch of ultraedit has one row (one target token), and the unbiased "
                    "variance of one row is undefined: in the published code, every later edit "
                    "is NaN.",
                    hint="Set variance: exact (preset corrected), or edit several facts together "
                    "in full sub-batches (edits: {joint: N}; sub_batch).",
                )
            x = torch.cat([h, g], dim=1)  # (m, in + out)
            if name not in statistics:
                statistics[name] = Statistics.of(state, name, x.shape[1])
            statistics[name].update(x, exact=config.variance == "exact")
    return statistics


def _shape_name(h: Tensor, g: Tensor) -> str:
    return f"{h.shape[1]}x{g.shape[1]}"


# ---------------------------------------------------------------- the update


def shift(h: Tensor, g: Tensor, statistics: Statistics, config: UltraEditConfig) -> Dense | LowRank:
    """The change of a module's weight.

    Args:
        h: Raw inputs of the turn, (m, in).
        g: Gradients with respect to its outputs, (m, out).
        statistics: Those of its shape, with this turn's rows.
        config: Hyperparameters.
    """
    normalised = statistics.normalised(torch.cat([h, g], dim=1)).to(h.device)  # (m, in + out)
    h_hat, g_hat = normalised[:, : h.shape[1]], normalised[:, h.shape[1] :]
    v = -config.lr * h_hat.square().sum(dim=1, keepdim=True) * g_hat  # (m, out)
    return least_squares(h, v, config.ridge)


def least_squares(h: Tensor, v: Tensor, ridge: float) -> Dense | LowRank:
    """(Hᵀ H + ridge I)⁻¹ Hᵀ V in float64; low-rank if that is smaller than a dense matrix.

    With fewer rows than inputs it is solved as Hᵀ (H Hᵀ + ridge I)⁻¹ V, which is the same.

    Args:
        h: (m, in)
        v: (m, out)
        ridge: Added to the diagonal.
    """
    m, n_in, n_out = *h.shape, v.shape[1]
    h64, v64 = h.double(), v.double()
    if m >= n_in:
        primal = torch.linalg.solve(h64.T @ h64 + ridge * torch.eye(n_in).to(h64), h64.T @ v64)
        return Dense(primal.float())
    right = torch.linalg.solve(h64 @ h64.T + ridge * torch.eye(m).to(h64), v64)  # (m, out)
    if m * (n_in + n_out) < n_in * n_out:
        return LowRank(h.T.float().contiguous(), right.float())
    return Dense((h64.T @ right).float())


def _doubts(
    path: str, change: Dense | LowRank, weight: Tensor, statistics: Statistics
) -> dict[str, str]:
    """Notes on a change that is zero for lack of rows, or as large as the weight."""
    if statistics.n < 2:
        return {
            "warning": "a single row was seen so far, so its normalised gradient is zero",
            "advice": "edit several facts together (edits: {joint: N}), or set tokens: all",
        }
    norm, own = float(change.dense().norm()), float(weight.detach().float().norm())
    if norm > own:
        return {
            "unstable": f"the change of {path} has the norm {norm:.3g}, its weight {own:.3g}",
            "advice": "lower lr",
        }
    return {}


# ---------------------------------------------------------------- edited modules


def _default_modules(n_layers: int) -> EditedModules:
    first, last = int(_FROM * n_layers), int(_TO * n_layers)
    return EditedModules(part="out", first=first, last=max(first, last))


def _paths(model: LanguageModel | ModelShape, modules: EditedModules, layer: int) -> list[str]:
    """Paths of a part of a block."""
    architecture, part = model.architecture, modules.part
    out = model.path(layer, "mlp_out")  # refuses a block that does not exist, or has experts
    if part == "out":
        return [out]
    if part == "in":
        return [architecture.path(layer, each) for each in architecture.mlp_in]
    if len(architecture.mlp_in) != 2:
        fused = architecture.mlp_in[0]
        raise ModelError(
            f"the MLPs of this model have no separate projection for {part!r}: {fused} is the only "
            "one into their inner space.",
            hint="Set part: in (editors.ultraedit.modules).",
        )
    return [architecture.path(layer, architecture.mlp_in[part == "up"])]


def _layer_of(architecture: Architecture, path: str) -> int:
    return int(path.removeprefix(f"{architecture.blocks}.").partition(".")[0])
