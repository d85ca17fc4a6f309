"""LoRA (Hu et al. 2022): a low-rank adapter on every chosen projection, trained on the facts.

For a frozen weight W0 (in x out) with input x, and factors A (in x r) and B (r x out):

    y = x W0 + alpha / r · x A B                   Adapters.outputs
    A ~ N(0, 1 / in), B = 0 at the start           Adapters.initial
    minimise  mean over facts of -log P[o* | p]    fact_losses, by Adam on A and B
    W = W0 + alpha / r · A B                       Adapters.changes

A joint edit trains one set of factors on all facts, in mini-batches if there are many. Independent
edits train a set of factors for each request, side by side; all start from the same A.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from editkit import (
    Editor,
    EditRequest,
    LanguageModel,
    LowRank,
    ModelError,
    Requirements,
    WeightDelta,
)
from editkit.editing.optimise import minimise, minimise_in_batches
from editkit.editing.outcomes import convergence
from editkit.editing.target_loss import fact_losses
from editkit.models import Completion, ModelShape
from editkit.models.running import replacing
from editkit.models.weight_layout import input_major, is_matrix_module
from editkit.progress import counting
from editkit_plugins.lora.config import LoraConfig

_FLOAT = 4  # bytes


class LoraEditor(Editor[LoraConfig]):
    """Trains adapters with Adam; the delta of each weight is their product."""

    name = "lora"

    def check(self, model: LanguageModel) -> None:
        """Refuse blocks and projections that the model does not have.

        Raises:
            ModelError: A block does not exist or has experts, or a projection is not a linear
                module.
        """
        Adapters.of(model, self.config)

    def requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        """Memory of factors, gradients and Adam's moments, and of one batch's backward pass."""
        together = min(requests, self.config.batch)
        return self._requirements(shape, requests + 3 * together, together, tokens)

    def joint_requirements(self, shape: ModelShape, *, requests: int, tokens: int) -> Requirements:
        """The same for one set of factors."""
        return self._requirements(shape, 1 + 3, min(requests, self.config.batch), tokens)

    def _requirements(
        self, shape: ModelShape, copies: int, together: int, tokens: int
    ) -> Requirements:
        config = self.config
        factors = sum(
            config.rank * sum(shape.module_parameters(path)["weight"])
            for path in adapted_paths(shape, config)
        )
        lowest = min(config.layers or (0,))
        memory = copies * factors * _FLOAT
        memory += shape.backward_bytes(together, tokens, shape.n_layers - lowest)
        return Requirements(memory=memory)

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        """One low-rank delta per request, each trained on that request alone."""
        if not requests:
            return []
        adapters = Adapters.of(model, self.config)
        facts = [each.completion for each in model.requested(requests)]
        deltas = []
        total = len(facts) * (self.config.steps + 1)
        with model.frozen(), torch.enable_grad(), counting("training adapters", total) as advance:
            for start in range(0, len(facts), self.config.batch):
                part = facts[start : start + self.config.batch]
                factors = [adapters.initial() for _ in part]
                history = minimise(
                    factors,
                    _SideBySide(adapters, part),
                    lr=self.config.lr,
                    evaluations=self.config.steps + 1,  # the last one measures the result
                    stop_loss=self.config.stop_loss,
                    weight_decay=self.config.weight_decay,
                    advance=advance,
                )
                for request, own, evaluations in zip(
                    requests[start:], factors, history, strict=False
                ):
                    steps = min(len(evaluations), self.config.steps)
                    notes = {"steps": steps, **self._notes(evaluations[-1][0])}
                    deltas.append(self.delta(model, request, adapters.changes(own), notes=notes))
        return deltas

    def edit_jointly(self, model: LanguageModel, requests: Sequence[EditRequest]) -> WeightDelta:
        """One low-rank delta, trained on all requests together."""
        adapters = Adapters.of(model, self.config)
        facts = [each.completion for each in model.requested(requests)]
        factors = adapters.initial()

        def losses(batch: Sequence[int]) -> Tensor:
            return adapters.losses([facts[i] for i in batch], [factors], [0] * len(batch))

        with model.frozen():
            means, final = minimise_in_batches(
                factors,
                losses,
                len(facts),
                batch=self.config.batch,
                lr=self.config.lr,
                passes=self.config.steps,
                stop_loss=self.config.stop_loss,
                weight_decay=self.config.weight_decay,
                seed=self.config.seed,
            )
        notes = {"steps": len(means), "facts": [self._notes(loss) for loss in final]}
        return self.delta(model, requests, adapters.changes(factors), notes=notes)

    def _notes(self, loss: float) -> dict[str, Any]:
        config = self.config
        advice = f"raise steps ({config.steps}), rank ({config.rank}) or lr ({config.lr:g})"
        return convergence(loss, loss, stop_loss=config.stop_loss, advice=advice)


# ---------------------------------------------------------------- adapters


@dataclasses.dataclass(frozen=True)
class Adapters:
    """The adapted modules of a model. Factors are listed as A, B of the first module, and so on.

    Attributes:
        model: The model.
        sizes: Module path -> (in, out).
        config: Hyperparameters.
    """

    model: LanguageModel
    sizes: Mapping[str, tuple[int, int]]
    config: LoraConfig

    @classmethod
    def of(cls, model: LanguageModel, config: LoraConfig) -> Adapters:
        """The adapters that a configuration puts into a model.

        Raises:
            ModelError: As for :meth:`LoraEditor.check`.
        """
        sizes = {}
        for path in adapted_paths(model, config):
            module = model.module(path)
            if not is_matrix_module(module):
                raise ModelError(
                    f"{path} is a {type(module).__name__}, not a linear module.",
                    hint="Choose other parts (editors.lora.parts).",
                )
            n_in, n_out = input_major(module, model.hf.get_parameter(f"{path}.weight")).shape
            sizes[path] = (n_in, n_out)
        return cls(model, sizes, config)

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.config.alpha / self.config.rank

    def initial(self) -> list[Tensor]:
        """Factors at the start, which depend on the seed only: leaves that require gradients."""
        generator = torch.Generator().manual_seed(self.config.seed)
        factors = []
        for path, (n_in, n_out) in self.sizes.items():
            device = self.model.hf.get_parameter(f"{path}.weight").device
            a = torch.randn(n_in, self.config.rank, generator=generator) / n_in**0.5
            factors += [a.to(device), torch.zeros(self.config.rank, n_out, device=device)]
        return [factor.requires_grad_() for factor in factors]

    def losses(
        self, facts: Sequence[Completion], factors: Sequence[Sequence[Tensor]], own: Sequence[int]
    ) -> Tensor:
        """The loss of each fact, (F,), fact f with the factors ``factors[own[f]]``."""
        hooks = {
            path: self._adding([each[2 * place : 2 * place + 2] for each in factors], own)
            for place, path in enumerate(self.sizes)
        }
        with replacing(self.model, hooks):
            return fact_losses(self.model, facts)

    def _adding(
        self, factors: Sequence[Sequence[Tensor]], own: Sequence[int]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """y = x W0 + alpha / r · x A B, with the factors of each row."""
        a, b = zip(*factors, strict=True)

        def run(x: Tensor, y: Tensor) -> Tensor:
            rows = x.reshape(len(own), -1, x.shape[-1])  # (F, T, in); some models flatten
            if len(a) == 1:
                added = rows @ a[0].to(x.dtype) @ b[0].to(x.dtype)
            else:
                a_rows = torch.stack(a)[list(own)].to(x.dtype)  # (F, in, r)
                b_rows = torch.stack(b)[list(own)].to(x.dtype)  # (F, r, out)
                added = rows @ a_rows @ b_rows
            adapted: Tensor = y + self.scale * added.reshape(y.shape)
            return adapted

        return run

    def changes(self, factors: Sequence[Tensor]) -> dict[str, LowRank]:
        """alpha / r · A B for each weight."""
        return {
            f"{path}.weight": LowRank(
                self.scale * factors[2 * place].detach(), factors[2 * place + 1].detach().clone()
            )
            for place, path in enumerate(self.sizes)
        }


@dataclasses.dataclass(frozen=True)
class _SideBySide:
    """Facts that each have their own factors."""

    adapters: Adapters
    facts: Sequence[Completion]

    def evaluate(self, variables: Sequence[Sequence[Tensor]]) -> tuple[Tensor]:
        return (self.adapters.losses(self.facts, variables, range(len(self.facts))),)

    def select(self, requests: Sequence[int]) -> _SideBySide:
        return dataclasses.replace(self, facts=[self.facts[i] for i in requests])


def adapted_paths(model: LanguageModel | ModelShape, config: LoraConfig) -> list[str]:
    """Paths of the modules that get an adapter.

    Raises:
        ModelError: A block does not exist, or has experts instead of one MLP.
    """
    architecture = model.architecture
    paths = []
    for layer in range(model.n_layers) if config.layers is None else config.layers:
        for part in config.parts:
            model.path(layer, "attention_out" if part == "qkv" else part)  # refuses
            names = getattr(architecture, part)
            names = (names,) if isinstance(names, str) else names
            paths += [architecture.path(layer, name) for name in names]
    return paths
